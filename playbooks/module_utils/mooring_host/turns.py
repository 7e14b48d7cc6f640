"""Calls that change ports take turns on a host, and so do those that write files into one container.

A call that its caller gave up may still be at work when the next one comes.  They would not harm the promise
that an address has one holder: that is kept by each transaction (see `switch`).  But one could delete the
interface that the other has just made.  So the second waits for the first, as long as a busy host may take.

It does not wait for ever.  A call may be frozen, and a port that has to go must not stay because of that; so
after `WAIT_S` the second goes on, and the frozen one finds when it wakes that its number is too low.

Neither kind may hold up the other, nor a container whose file system hangs the rest, so each has a lock of
its own.  It is the kernel's and ends with its process, whatever that dies of, and with the child that writes
a file, if that hangs for longer.  Containers share `_FILE_LOCKS` of them, so that no container leaves one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Iterator

PORTS = "ports"
WAIT_S = 5.0
POLL_S = 0.02
_FILE_LOCKS = 256


def files_of(task_id: str) -> str:
    """What those change who write into the container of that task."""
    return f"files-{zlib.crc32(task_id.encode()) % _FILE_LOCKS}"


def is_taken(state_dir: str, what: str) -> bool:
    """Whether another call is at it just now."""
    with my_turn(state_dir, what, 0.0) as alone:
        return not alone


@contextlib.contextmanager
def my_turn(state_dir: str, what: str, wait_s: float | None = None) -> Iterator[bool]:
    """Run the body while no other call changes `what`, as far as others can be waited for (`WAIT_S`).

    Yields whether that is so.
    """
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    descriptor = os.open(
        os.path.join(state_dir, f"{what}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        yield _wait(descriptor, WAIT_S if wait_s is None else wait_s)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(POLL_S)
