"""The workers: keys out of the queue, one reconcile each, and back with the verdict.

There are `count` of them and they are all alike.  A paused instance is passed over: what happened to it
is still in the view, and `resume` queues it again.  A defect in our own code (any exception that is not
ours) is logged with its trace and tried again with back-off: one instance must not stop the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

from mooring.controller.breath import Breath
from mooring.controller.queue import QueueClosed, WorkQueue
from mooring.controller.reconcile import Reconciler, Verdict
from mooring.core.clock import Clock
from mooring.core.errors import Fatal
from mooring.core.model import BindingId

log = structlog.get_logger(__name__)

Reconciled = Callable[[BindingId, str, float], None]


class Workers:
    """So many reconciles at a time."""

    def __init__(
        self,
        queue: WorkQueue[BindingId],
        reconciler: Reconciler,
        clock: Clock,
        count: int,
        is_paused: Callable[[BindingId], bool],
        reconciled: Reconciled = lambda key, result, seconds: None,
    ) -> None:
        """`reconciled` is told key, result and seconds of each reconcile, for metrics."""
        self._queue = queue
        self._reconciler = reconciler
        self._clock = clock
        self._is_paused = is_paused
        self._breath = Breath(clock)
        self._complained: dict[BindingId, str] = {}
        self._complaints: Counter[str] = Counter()  # how many instances have it
        self._reconciled = reconciled
        self.count = count

    async def run(self) -> None:
        """Work until the queue is closed."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._work(), name=f"worker {number}")

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            try:
                with structlog.contextvars.bound_contextvars(instance=key):
                    await self._one(key)
            finally:
                self._queue.done(key)
            await self._breath.draw()  # a key that waits for nothing would let nobody else run

    async def _one(self, key: BindingId) -> None:
        if self._is_paused(key):
            return
        began = self._clock.monotonic()
        try:
            verdict = await self._reconciler.reconcile(key)
        except Fatal:
            raise  # ends all workers, and with them the daemon
        except Exception as error:
            delay = self._queue.retry(key)
            log.exception("a defect; tried again", error=repr(error), in_s=round(delay, 2))
            self._reconciled(key, "error", self._clock.monotonic() - began)
            return
        self._reconciled(key, self._follow(key, verdict), self._clock.monotonic() - began)

    def _follow(self, key: BindingId, verdict: Verdict) -> str:
        """Put the key where the verdict wants it; the result in a word."""
        self._complain(key, verdict)
        if verdict.again:
            self._queue.retry(key, verdict.after_s)
            return "requeue" if verdict.after_s is None else "requeue_after"
        self._queue.succeeded(key)
        return "refused" if verdict.reason else "success"

    def _complain(self, key: BindingId, verdict: Verdict) -> None:
        """Log a problem once: not at each of its retries, nor for each instance that has the same."""
        before = self._complained.get(key, "")
        if verdict.reason == before:
            return
        self._withdraw(key)
        if not verdict.reason:
            return
        self._complained[key] = verdict.reason
        self._complaints[verdict.reason] += 1
        if self._complaints[verdict.reason] > 1:
            return
        if verdict.again:
            log.warning("not in step yet", reason=verdict.reason)
        else:
            log.error("cannot be brought in step", reason=verdict.reason)

    def _withdraw(self, key: BindingId) -> None:
        reason = self._complained.pop(key, None)
        if reason is not None:
            self._complaints[reason] -= 1
            if not self._complaints[reason]:
                del self._complaints[reason]
