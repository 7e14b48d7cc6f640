"""One daemon for one store: an advisory lock on a file beside the database.

`flock` belongs to the open file, not to the process, so it also refuses a second store object in the
same process, and the kernel drops it at any kind of death.  The file stays behind on purpose: removing
it would let two daemons lock two files of the same name.  It is closed on exec; a child that is forked
without exec inherits the lock and keeps it for as long as it lives.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mooring.core.errors import Refused


def acquire(store: Path) -> int:
    """Lock `<store>.lock` and return its descriptor; closing that gives the lock back.

    Raises `Refused` naming the process that has it, and `OSError` if the file cannot be opened.
    """
    path = store.with_name(f"{store.name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise Refused(
            f"store {store} is in use by process {holder}: "
            "stop that daemon first, or give this one a store of its own"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
