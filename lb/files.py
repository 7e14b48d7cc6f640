"""Our mark on a configuration file, and writing one so that no reader ever sees half of it.

The first lines of every file we write say whose it is, by which epoch, and a hash of the rest; then who
holds which port and host name, which is how that survives a restart of the daemon.  A file without our
mark is somebody's work: we refuse to replace it, unless it says itself that it is only the initial one
(`# mooring: initial`) or the operator said so.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mooring.core.errors import Fenced, Refused
from mooring.core.model import Epoch
from mooring.lb.model import ServiceKey

INITIAL = "# mooring: initial"
_HEADER = re.compile(r"^# mooring: owner=(\S+) epoch=(\d+) content=([0-9a-f]+)$", re.MULTILINE)
_CLAIM = re.compile(r"^# claim: ((?:port|host) \S+) app=(\S+) index=(\d+)$", re.MULTILINE)
_OWNER = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose file this is."""

    owner: str
    epoch: Epoch
    content: str  # hash of the body


def digest(text: str) -> str:
    """A short hash that names a content."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamped(body: str, owner: str, epoch: Epoch, claims: Mapping[str, ServiceKey]) -> str:
    """The body under our mark."""
    if not _OWNER.match(owner):
        raise Refused(f"{owner!r} is not an owner name: up to 64 letters, digits, dots, hyphens, underscores")
    lines = [
        f"# mooring: owner={owner} epoch={epoch} content={digest(body)}",
        "# Written by Mooring. Whatever is changed here by hand is overwritten.",
        *(f"# claim: {claim} app={app} index={index}" for claim, (app, index) in sorted(claims.items())),
    ]
    return "\n".join(lines) + "\n" + body


def read_mark(text: str) -> Mark | None:
    """The mark in a file, None if it has none."""
    found = _HEADER.search(text)
    return Mark(found[1], Epoch(int(found[2])), found[3]) if found else None


def read_claims(text: str) -> dict[str, ServiceKey]:
    """Who holds which port and host name, as `stamped` wrote it."""
    return {found[1]: (found[2], int(found[3])) for found in _CLAIM.finditer(text)}


def altered(text: str) -> bool:
    """Whether somebody changed a marked file since we wrote it."""
    mark = read_mark(text)
    body = re.sub(r"\A(?:# (?:mooring|Written by Mooring|claim)[^\n]*\n)+", "", text)
    return mark is not None and mark.content != digest(body)


def guard(path: Path, text: str | None, owner: str, epoch: Epoch, *, adopt: bool) -> None:
    """Raise `Refused` if the file is not ours to replace, `Fenced` if a newer daemon has written it."""
    if text is None or not text.strip():
        return
    mark = read_mark(text)
    if mark is None:
        if adopt or INITIAL in text.splitlines():
            return
        raise Refused(
            f"{path} does not carry our mark; to hand the file to Mooring put the line {INITIAL!r} into it"
        )
    if mark.owner != owner:
        raise Refused(f"{path} belongs to {mark.owner!r}, we are {owner!r}")
    if mark.epoch > epoch:
        raise Fenced(f"{path} was written by epoch {mark.epoch}, we are epoch {epoch}")


def read(path: Path) -> str | None:
    """The text of a file, None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def write_durably(path: Path, text: str) -> None:
    """Write and flush to the disk; other readers may see it half written."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, text: str) -> None:
    """Put a whole new file in place of the old one, on disk when this returns."""
    fresh = path.with_name(path.name + ".new")
    write_durably(fresh, text)
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
