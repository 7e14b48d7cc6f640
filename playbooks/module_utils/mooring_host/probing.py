"""Probing: does something accept connections on the container's own address?

The sockets are made inside the container's namespace and all waited for together, so the probes of a whole
call take as long as the slowest of them.  A port that refuses is tried again until the deadline: a process is
usually probed while it starts, and asking again here costs milliseconds where another call costs a second.  A
probe is `done` when every port accepted, else `retry` with the reasons.  All probes of a call share one
budget of time, whatever they wish.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from dataclasses import dataclass, field

from .budget import Budget
from .host import FAILURES, Host, Result, failure
from .namespaces import NetworkNamespace
from .orders import Probe

PROBES_S = 2.0
PAUSE_S = 0.05
_PENDING = {errno.EINPROGRESS, errno.EAGAIN}
_NO_ANSWER = "no answer in time"


@dataclass
class _Attempt:
    """The connection to one port, tried anew while it is refused."""

    order: Probe
    port: int
    namespace: NetworkNamespace
    deadline: float
    connecting: socket.socket | None = None
    error: str | None = _NO_ANSWER
    again_at: float = 0.0
    ended: bool = False

    def connect(self) -> None:
        """Begin to connect, from inside the namespace."""
        family = socket.AF_INET if self.order.address.version == 4 else socket.AF_INET6
        with self.namespace.entered():
            self.connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        number = self.connecting.connect_ex((str(self.order.address), self.port))
        if number not in _PENDING:
            self.settle(number)

    def settle(self, number: int) -> None:
        """Take the outcome of a connection: only a refusal lets the attempt go on."""
        assert self.connecting is not None
        self.connecting.close()
        self.connecting = None
        self.error = os.strerror(number) if number else None
        self.ended = number != errno.ECONNREFUSED
        self.again_at = time.monotonic() + PAUSE_S

    def step(self, now: float) -> None:
        """Begin again or give up, as the time demands."""
        if now >= self.deadline:
            self.ended = True
        elif self.connecting is None and now >= self.again_at:
            self.connect()


@dataclass
class _Job:
    order: Probe
    result: Result | None = None
    namespace: NetworkNamespace | None = None
    attempts: list[_Attempt] = field(default_factory=list)


def probe(host: Host, orders: list[Probe]) -> list[Result]:
    """Probe everything at once; one result per order, in order."""
    jobs = [_Job(order) for order in orders]
    budget = Budget(PROBES_S, "probes")
    try:
        for job in jobs:
            try:
                _start(host, job, budget)
            except FAILURES as error:
                job.result = failure(job.order.id, error)
        _wait([attempt for job in jobs for attempt in job.attempts])
        return [job.result or _summary(job) for job in jobs]
    finally:
        for job in jobs:
            _close(job)


def _start(host: Host, job: _Job, budget: Budget) -> None:
    budget.left(job.order.timeout_s)
    job.namespace = host.engine.namespace(host.engine.find(job.order.task_id))
    deadline = time.monotonic() + budget.left(job.order.timeout_s)
    for port in job.order.ports:
        job.attempts.append(_Attempt(job.order, port, job.namespace, deadline))


def _wait(attempts: list[_Attempt]) -> None:
    """Drive every attempt until it ended."""
    while True:
        now = time.monotonic()
        for attempt in attempts:
            if not attempt.ended:
                attempt.step(now)
        attempts = [attempt for attempt in attempts if not attempt.ended]
        if not attempts:
            return
        _poll({a.connecting.fileno(): a for a in attempts if a.connecting is not None})


def _poll(connecting: dict[int, _Attempt]) -> None:
    """Wait a moment for connections to be made or refused."""
    poll = select.poll()
    for descriptor in connecting:
        poll.register(descriptor, select.POLLOUT)
    for descriptor, _ in poll.poll(PAUSE_S * 1000):
        attempt = connecting[descriptor]
        assert attempt.connecting is not None
        attempt.settle(attempt.connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def _close(job: _Job) -> None:
    for attempt in job.attempts:
        if attempt.connecting is not None:
            attempt.connecting.close()
    if job.namespace is not None:
        job.namespace.close()


def _summary(job: _Job) -> Result:
    closed = {str(attempt.port): attempt.error for attempt in job.attempts if attempt.error}
    opened = [attempt.port for attempt in job.attempts if not attempt.error]
    reason = "; ".join(f"port {port}: {error}" for port, error in closed.items())
    details = {"open": opened, "closed": closed}
    return Result(job.order.id, "retry" if closed else "done", reason, details=details)
