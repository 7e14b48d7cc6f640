"""What the daemon says about itself: who it is, whether it may be relied on, and its numbers.

Nothing is kept here.  Every answer is put together from the running parts at the moment of the question, so
none can be left behind by a code path that forgot to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mooring.controller.queue import WorkQueue
from mooring.controller.stage import Ground, Stage
from mooring.controller.stream import StreamReader
from mooring.controller.version import version
from mooring.controller.view import View
from mooring.controller.watch import Watch
from mooring.core.clock import Clock
from mooring.core.model import AppId, BindingId, Epoch
from mooring.core.readmodel import Overview, Vitals
from mooring.handlers.create import Seats


@dataclass(frozen=True, slots=True)
class Badge:
    """What stays the same for one life of a daemon."""

    owner: str
    epoch: Epoch
    workers: int
    observe: bool


class Condition:
    """Answers from the parts of one engine."""

    def __init__(
        self,
        badge: Badge,
        clock: Clock,
        view: View,
        watch: Watch,
        queue: WorkQueue[BindingId],
        seats: Seats,
        paused: Callable[[], tuple[str, ...]],
    ) -> None:
        """`reader` and `ground` are set once there are any."""
        self.reader: StreamReader | None = None
        self.ground: Ground | None = None
        self._badge = badge
        self._clock = clock
        self._view = view
        self._watch = watch
        self._queue = queue
        self._seats = seats
        self._paused = paused

    def overview(self) -> Overview:
        """The daemon in a few words."""
        merged_at = self._watch.snapshot_at
        return Overview(
            version=version(),
            epoch=self._badge.epoch,
            owner=self._badge.owner,
            observe=self._badge.observe,
            paused=self._paused(),
            brake=self._view.brake,
            held=len(self._view.held) + len(self._view.held_apps),
            stream=self._stream(),
            snapshot_age_s=None if merged_at is None else self._clock.monotonic() - merged_at,
            maintained=dict(sorted(self.ground.hosts.maintained.items())) if self.ground else {},
        )

    def readiness(self) -> Sequence[str]:
        """Why the daemon is not to be relied on; empty: it is."""
        return [reason for reason in self._unready().values() if reason]

    def unreadable(self) -> Mapping[AppId, str]:
        """Apps that Marathon lists in a way we cannot read, and why."""
        return self._watch.unreadable

    def vitals(self, unsettled: Mapping[str, int]) -> Vitals:
        """The numbers of a scrape; `unsettled` counts the bindings not in step by sink."""
        intake, reader = self._watch.intake, self.reader
        return Vitals(
            workers=self._badge.workers,
            queue_depth=self._queue.depth(),
            running_s=self._queue.running_s(),
            attached=reader is not None and reader.is_attached,
            last_event_at=self._watch.last_event_at,
            events={"decoded": dict(intake.decoded), "ignored": self._ignored()},
            skipped=self._skipped(),
            unsettled=unsettled,
            adds=self._queue.adds,
            retries=self._queue.retries,
            reconnects=max(0, reader.attachments - 1) if reader else 0,
            behind=reader.behind if reader else 0,
            max_behind=reader.max_behind if reader else 0,
            held=len(self._view.held),
            rebuild_needed=self.ground is not None and self.ground.stage is Stage.AWAITED,
            hosts=self.ground.hosts_by_state() if self.ground else {},
            unready={part: reason != "" for part, reason in self._unready().items()},
        )

    def _unready(self) -> Mapping[str, str]:
        """For each part that can be in the way: why it is; "" if it is not."""
        attached = self.reader is not None and self.reader.is_attached
        problem, brake, closed = self._watch.snapshot_problem, self._view.brake, self._seats.closed
        return {
            "view": "" if self._view.complete else "no complete listing of Marathon yet",
            "stream": "" if attached else f"event stream: {self._stream()}",
            "snapshot": f"snapshot: {problem}" if problem else "",
            "brake": f"brake: {brake}" if brake else "",
            "rebuild": f"no address is given out: {closed}" if closed else "",
        }

    def _stream(self) -> str:
        if self.reader is not None and self.reader.attached_to:
            return f"attached to {self.reader.attached_to}"
        return (self.reader.last_failure if self.reader else None) or "not attached yet"

    def _ignored(self) -> Mapping[str, int]:
        unasked = {"unasked": self.reader.unwanted} if self.reader else {}
        return dict(self._watch.intake.ignored) | unasked

    def _skipped(self) -> Mapping[str, int]:
        skipped = dict(self._watch.intake.unreadable)
        if self.reader is not None:
            skipped |= {"oversized": self.reader.oversized, "overflow": self.reader.overflowed}
        return skipped
