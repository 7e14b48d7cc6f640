"""Processes of a play: finding all of them, and ending them so that none is left.

A play's own process passes SIGTERM on to its workers, and they to what they started, so it is asked first.
Workers lead sessions of their own, so if that does not help in time they cannot be had by killing a group:
they are found by descent, and what a worker has left behind by the mark in its environment.  The shared ssh
connections ("[mux]") are spared: they serve other plays.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def ask_to_end(pid: int) -> None:
    """SIGTERM for a play's own process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def kill_family(pid: int, mark: str) -> None:
    """SIGKILL for a play, all its descendants, and whatever else carries its mark (`NAME=value`)."""
    _kill({pid, *_descendants(pid), *marked(mark)})


def kill_marked(mark: str) -> None:
    """SIGKILL for whatever carries the mark."""
    _kill(set(marked(mark)))


def kill_orphans(spared: set[int]) -> None:
    """SIGKILL for children of this process that are forks of it, but for those to be spared.

    Where orphans are handed to this process, such a child is a worker whose play is gone.
    """
    own = (_PROC / "self" / "cmdline").read_bytes()
    found = set()
    for place in _processes():
        with contextlib.suppress(OSError):
            if _parent_of(place) == os.getpid() and (place / "cmdline").read_bytes() == own:
                found.add(int(place.name))
    _kill(found - spared)


def ask_child_to_end(mark: str) -> bool:
    """SIGTERM for the child of this process that carries the mark; False if there is none (yet)."""
    for pid in marked(mark):
        with contextlib.suppress(OSError):  # ended meanwhile
            if _parent_of(_PROC / str(pid)) == os.getpid():
                os.kill(pid, signal.SIGTERM)
                return True
    return False


def _kill(doomed: set[int]) -> None:
    for one in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Living processes whose environment has the mark, or begins with it, without shared ssh connections."""
    wanted = mark.encode()
    found = []
    for place in _processes():
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            entries = (place / "environ").read_bytes().split(b"\0")
            shared = b"[mux]" in (place / "cmdline").read_bytes()
            if not shared and any(entry.startswith(wanted) for entry in entries):
                found.append(int(place.name))
    return found


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for place in _processes():
        with contextlib.suppress(OSError):
            children.setdefault(_parent_of(place), []).append(int(place.name))
    found = [pid]
    for one in found:  # grows while it is walked through
        found += children.get(one, ())
    return found[1:]


def _parent_of(place: Path) -> int:
    """The parent's id of a process in /proc; raises OSError if it has ended."""
    return int((place / "stat").read_text().rpartition(")")[2].split()[1])


def _processes() -> Iterator[Path]:
    return (place for place in _PROC.iterdir() if place.name.isdigit())
