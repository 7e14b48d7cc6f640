"""One daemon for one store: an advisory lock on a file beside the database, and how the last one ended.

`flock` belongs to the open file, not to the process, so it also refuses a second store object in the
same process, and the kernel drops it at any kind of death.  The file stays behind on purpose: removing
it would let two daemons lock two files of the same name.  It is closed on exec; a child that is forked
without exec inherits the lock and keeps it for as long as it lives.

The file says who holds it and, while the newest transactions may stand in the journal only, the word
`writing`.  After an orderly end it is empty.  A journal that is missing although the last holder was
writing has been lost, and with it leases: the file alone would look whole and be older than it says.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mooring.core.errors import Refused

_WRITING = "writing"


class Lock:
    """The lock of one store, held until `release`."""

    def __init__(self, store: Path) -> None:
        """Lock `<store>.lock`.

        Raises `Refused` naming the process that has it, and `OSError` if the file cannot be opened.
        """
        path = store.with_name(f"{store.name}.lock")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        locked = _try_lock(self._descriptor)
        holder, _, word = os.read(self._descriptor, 64).decode("ascii", "replace").strip().partition(" ")
        if not locked:
            os.close(self._descriptor)
            raise Refused(
                f"store {store} is in use by process {holder or 'unknown'}: "
                "stop that daemon first, or give this one a store of its own"
            )
        self.was_writing = word == _WRITING
        self._say(f"{os.getpid()} {word}".strip())

    def writing(self) -> None:
        """From now on the journal belongs to the store."""
        self._say(f"{os.getpid()} {_WRITING}")

    def settled(self) -> None:
        """Everything stands in the database itself."""
        self._say("")

    def release(self) -> None:
        """Give the lock back; what the file says stays."""
        os.close(self._descriptor)

    def _say(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{text}\n".encode(), 0)
        os.fsync(self._descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
