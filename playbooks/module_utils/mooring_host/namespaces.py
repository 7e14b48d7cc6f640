"""Namespaces as open file descriptors.

A namespace is held by a descriptor, never by a name or a process id: a descriptor keeps pointing at the
same namespace when the process that lived in it dies and its id is given to another.  Sockets keep the
namespace they were made in, so entering one is needed only for a moment: enter, make the sockets, return.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def set_namespace(descriptor: int, kind: int = CLONE_NEWNET) -> None:
    """Put the calling thread into the namespace for good; raises OSError."""
    if _libc.setns(descriptor, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "setns: " + os.strerror(number))


@dataclass(frozen=True)
class Place:
    """A container's files: descriptors of its root directory and of its mount namespace."""

    root: int
    mounts: int

    def enter(self) -> None:
        """Make the container's root the calling process's own, for good; only for a forked child.

        The mount namespace is entered as well, because the kernel lets a rename replace (and thereby
        unmount) a mount point of another namespace, where it refuses with EBUSY in its own.
        """
        set_namespace(self.mounts, CLONE_NEWNS)
        os.fchdir(self.root)
        os.chroot(".")


class NetworkNamespace:
    """One network namespace, held open until `close`."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self.descriptor)
        self.identity = (status.st_dev, status.st_ino)

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespace; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run the body inside the namespace and come back.

        A failure to come back is raised: the rest of the run would change the wrong namespace.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_namespace(self.descriptor)
            try:
                yield
            finally:
                set_namespace(home)
        finally:
            os.close(home)
