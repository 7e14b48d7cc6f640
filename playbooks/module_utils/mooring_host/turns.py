"""Calls that change ports take turns on a host, and so do those that write files.

A call that its caller gave up may still be at work when the next one comes.  They would not harm the promise
that an address has one holder: that is kept by each transaction (see `switch`).  But one could delete the
interface that the other has just made.  So the second waits for the first, as long as a busy host may take.

It does not wait for ever.  A call may be frozen, and a port that has to go must not stay because of that; so
after `WAIT_S` the second goes on, and the frozen one finds when it wakes that its number is too low.

Each kind has a lock of its own, since neither may hold up the other.  It is the kernel's and ends with its
process, whatever that dies of, and with the child that writes a file, if that hangs for longer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

PORTS = "ports"
FILES = "files"
WAIT_S = 5.0
POLL_S = 0.02


@contextlib.contextmanager
def my_turn(state_dir: str, what: str) -> Iterator[None]:
    """Run the body while no other call changes `what`, as far as others can be waited for."""
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    descriptor = os.open(
        os.path.join(state_dir, f"{what}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        _wait(descriptor)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return
        time.sleep(POLL_S)
