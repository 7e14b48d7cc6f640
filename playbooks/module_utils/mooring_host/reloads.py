"""Writing dependency files and telling the processes, so that no telling is lost and none holds up the host.

A call that was overtaken writes nothing: each file has a record of the newest call that wrote it (its epoch
and its number), compared and replaced before the file is touched.  What remains is a call that freezes
between that moment and the rename.

A process is told when the content changed, and again when it is not known that the last telling succeeded:
a run may be cut off between the rename and the signal.  What is known stands in records (see `tellings`).

A command that an app asked for may take any time.  So first all files are put in place, one after the
other; then the containers are told side by side (each its files in turn), all within one budget.  A command
that does not end in its time goes on inside the container, where nothing but its own end ends it.  It is
therefore remembered by the engine's id and not begun a second time: the next call asks what became of it,
and takes a success found then as the telling.  Only after `PATIENCE_S` is another one begun beside it.
Until then a process left behind goes on reading what it prints; with nobody to read, it would die of its
output.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .background import run_apart
from .budget import Budget
from .containers import Container, Engine
from .errors import Refused, Retry
from .files import write_file
from .host import FAILURES, Host, Result, failure
from .orders import Write
from .tellings import Tellings
from .turns import WAIT_S, files_of, is_taken, my_turn

WRITES_S = 8.0
PATIENCE_S = 300.0
SIDE_BY_SIDE = 16


@dataclass
class Job:
    """A file that is in place; `tell`: its process is still to be told."""

    order: Write
    container: Container
    changed: bool
    tell: bool

    def result(self) -> Result:
        """What is reported when everything went well."""
        details = {"path": self.order.path, "digest": self.order.digest, "reloaded": self.tell}
        return Result(self.order.id, "done", changed=self.changed or self.tell, details=details)


def write(host: Host, orders: list[Write]) -> list[Result]:
    """Put every file in place and tell who must be told; one result per order, in order."""
    budget = Budget(WRITES_S, "writes")
    tellings = Tellings(host.settings.state_dir, host.settings.owner)
    results: dict[int, Result] = {}
    waiting: dict[str, list[tuple[int, Job]]] = {}
    for index, order in _busy_last(host, orders):
        try:
            job = _put(host, tellings, order, budget)
        except FAILURES as error:
            results[index] = failure(order.id, error)
            continue
        results[index] = job.result()
        if job.tell and not host.settings.check:
            waiting.setdefault(job.container.id, []).append((index, job))
    for told in _tell_all(host, tellings, list(waiting.values()), budget):
        results.update(told)
    return [results[index] for index in range(len(orders))]


def _busy_last(host: Host, orders: Sequence[Write]) -> list[tuple[int, Write]]:
    """The orders and their places; last those for containers in which an earlier call writes: it may hang."""

    def is_busy(numbered: tuple[int, Write]) -> bool:
        return is_taken(host.settings.state_dir, files_of(numbered[1].task_id))

    return sorted(enumerate(orders), key=is_busy)


def _put(host: Host, tellings: Tellings, order: Write, budget: Budget) -> Job:
    """Put one file in place; raises Refused or Retry."""
    if hashlib.sha256(order.content).hexdigest() != order.digest:
        raise Refused(f"the content of {order.path} does not match its digest")
    budget.left(order.timeout_s)
    _check_epoch(host)
    container = host.engine.find(order.task_id)
    check = host.settings.check
    turn = my_turn(host.settings.state_dir, files_of(order.task_id), budget.left(WAIT_S))
    with turn, host.engine.files(container) as place:
        tellings.come_after(container, order, host.settings.epoch, keep=not check)
        left = budget.left(order.timeout_s)
        content_changed, changed = write_file(
            place, order.path, order.content, order.mode, timeout_s=left, check=check
        )
    listens = bool(order.command or order.signal)
    tell = listens and (content_changed or not tellings.confirmed(container, order))
    return Job(order, container, changed, tell)


def _check_epoch(host: Host) -> None:
    """Refuse a caller that was overtaken; a host without Open vSwitch has nobody to be overtaken by."""
    if os.path.exists(host.settings.database):
        host.switch().check_epoch(host.settings.epoch)


def _tell_all(
    host: Host, tellings: Tellings, waiting: Sequence[list[tuple[int, Job]]], budget: Budget
) -> list[dict[int, Result]]:
    """Tell the containers side by side: results by index, one mapping for each container."""
    if not waiting:
        return []
    unfinished: list[socket.socket] = []

    def tell_one(jobs: list[tuple[int, Job]]) -> dict[int, Result]:
        engine = Engine(host.settings.engine)  # its connection cannot be shared by threads
        try:
            return {index: _told(engine, tellings, job, budget) for index, job in jobs}
        finally:
            unfinished.extend(engine.unfinished)
            engine.close()

    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        results = list(threads.map(tell_one, waiting))
    _listen_on(unfinished)
    return results


def _listen_on(unfinished: Sequence[socket.socket]) -> None:
    """Leave a process behind that reads what the commands print until they end, or for `PATIENCE_S`."""
    if unfinished:
        run_apart(lambda: _drain(unfinished), [connection.fileno() for connection in unfinished])
    for connection in unfinished:
        connection.close()


def _drain(connections: Sequence[socket.socket]) -> None:
    going, ends_at = set(connections), time.monotonic() + PATIENCE_S
    while going and time.monotonic() < ends_at:
        for connection in select.select(list(going), [], [], max(0.0, ends_at - time.monotonic()))[0]:
            printed = b""
            with contextlib.suppress(OSError):  # the engine went away, and the command with it
                printed = connection.recv(1 << 16)
            if not printed:
                going.discard(connection)


def _told(engine: Engine, tellings: Tellings, job: Job, budget: Budget) -> Result:
    try:
        if not _succeeded_meanwhile(engine, tellings, job):
            _tell(engine, tellings, job, budget)
        tellings.confirm(job.container, job.order)
    except FAILURES as error:
        return failure(job.order.id, error)
    return job.result()


def _succeeded_meanwhile(engine: Engine, tellings: Tellings, job: Job) -> bool:
    """Whether a command begun by an earlier call has ended well; raises Retry while it still runs."""
    begun = tellings.begun(job.container, job.order)
    if begun is None or not job.order.command:
        return False
    run = engine.look_at(begun.run)
    if run is not None and run.running and begun.age_s < PATIENCE_S:
        raise Retry(
            f"a command that was begun {begun.age_s:.0f} s ago for {job.order.path} has not ended; "
            f"another one is begun when it has, or after {PATIENCE_S:g} s"
        )
    if run is None or run.running or run.code is None or not begun.same:
        return False
    if run.code != 0:
        tellings.end(job.container, job.order)
        raise Retry(f"{job.order.command[0]} ended with {run.code}, after longer than one call waits")
    return True


def _tell(engine: Engine, tellings: Tellings, job: Job, budget: Budget) -> None:
    container, order = job.container, job.order
    budget.left(order.timeout_s)
    if order.signal:
        engine.signal(container, order.signal)
    if order.command:
        run = engine.prepare(container, order.command)
        tellings.begin(container, order, run)
        code, output = engine.execute(run, budget.left(order.timeout_s))
        tellings.end(container, order)
        if code != 0:
            raise Retry(f"{order.command[0]} ended with {code}: {output.strip() or 'no output'}")
