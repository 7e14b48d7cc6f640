"""Processes of the daemon's plays that should have ended by now."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_WORDS = (b"ansible", b"ssh")
_PLAY_MARKS = (b"MOORING_FLIGHT=", b"ANSIBLE_")


def now() -> float:
    """The machine's time since it was started, which processes' ages are counted from."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def plays_left(daemon: int, before: float) -> list[str]:
    """What was started before that time by a play of that daemon and still runs.

    Left out are shared ssh connections, which serve later plays, and a server from which plays are forked:
    that is the daemon's own child, and no play.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):  # it has ended
                line = _play(entry, daemon, before)
                found += [line] if line else []
    return found


def _play(process: Path, daemon: int, before: float) -> str:
    words = (process / "cmdline").read_bytes()
    environment = (process / "environ").read_bytes()
    is_play = any(word in words for word in _WORDS) and any(mark in environment for mark in _PLAY_MARKS)
    if not is_play or b"[mux]" in words or int(process.name) == daemon:
        return ""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z" or daemon not in _ancestors(int(process.name)):
        return ""
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    told = words.replace(b"\0", b" ").decode(errors="replace")[:200]
    return f"{process.name} of {started:.0f}: {told}" if started < before else ""


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found
