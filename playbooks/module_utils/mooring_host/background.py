"""Work that goes on after the call has answered, in a process that nobody waits for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence


def run_apart(act: Callable[[], None], keep: Sequence[int]) -> None:
    """Let `act` run in a process of its own, which holds no other descriptors than those to `keep`."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    # Forked twice, so that the process has no parent that would have to wait for it.
    try:
        if os.fork() == 0:
            _detach_process(keep)
            act()
    finally:
        os._exit(0)


def _detach_process(keep: Sequence[int]) -> None:
    """Leave the caller's session and all its descriptors; an open pipe would keep Ansible waiting."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    kept = sorted({2, *keep})
    for low, high in zip(kept, [*kept[1:], 4096]):  # noqa: B905 (strict= needs Python 3.10)
        os.closerange(low + 1, high)
