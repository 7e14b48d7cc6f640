"""A whole store as one file, the same for every backend: the format of backups.

Lines of JSON.  The first says what it is, the last how many lines lie between and what the SHA-256 of all
before it is, so a file that was cut off or changed is told from a whole one.  Between them stands one write
a line, under the name of its kind:

    {"mooring-backup": 1, "epoch": 12, "made_at": 1795140000.0, "at_rest": false}
    {"lease": {"lease": {"address": "10.64.0.9", ...}, "replaces": null}}
    {"note": {"at": 1795139000.5, "event": "bound", ...}}
    {"count": 2, "sha256": "..."}

The number rises when a release writes something that an older one would lose.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from mooring.controller.store.writes import chunks
from mooring.core.errors import Refused
from mooring.core.model import Epoch
from mooring.core.store import (
    Note,
    PutBinding,
    PutFlag,
    PutItem,
    PutLease,
    PutPool,
    RetireItem,
    Store,
    Write,
)

FORMAT = 1

_TOGETHER = 1000  # writes in one transaction

T = TypeVar("T")
_KINDS: dict[str, type[Write]] = {
    "flag": PutFlag,
    "pool": PutPool,
    "binding": PutBinding,
    "lease": PutLease,
    "item": PutItem,
    "retired": RetireItem,
    "note": Note,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in _KINDS.items()}
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Header(msgspec.Struct, frozen=True):
    """The first line."""

    format: int = msgspec.field(name="mooring-backup")
    epoch: int  # the newest that had written
    made_at: float  # Unix seconds
    at_rest: bool = False  # no daemon had the store: whatever happened later has a higher epoch


class Trailer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last line."""

    count: int
    sha256: str


async def archive(store: Store, epoch: Epoch, now: float, *, at_rest: bool = False) -> AsyncIterator[bytes]:
    """The store at one moment, some lines at a time."""
    digest, count = hashlib.sha256(), 0
    header = _line(Header(FORMAT, epoch, now, at_rest))
    digest.update(header)
    yield header
    async for writes in store.dump():
        lines = b"".join(_line({_NAMES[type(write)]: write}) for write in writes)
        digest.update(lines)
        count += len(writes)
        yield lines
    yield _line(Trailer(count, digest.hexdigest()))


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def check(path: Path) -> tuple[Header, Trailer]:
    """Read all of it and see that it is whole. Raises `Refused`."""
    digest, count = hashlib.sha256(), -1
    header: Header | None = None
    with _opened(path) as file:
        for line in file:
            if line.startswith(b'{"count":'):
                trailer = _decoded(path, line, Trailer)
                break
            if header is None:
                header = _header(path, line)
            digest.update(line)
            count += 1
        else:
            raise Refused(f"{path} is not whole: its last line is missing; take another backup")
        more = file.read(1)
    if header is None or more or trailer != Trailer(count, digest.hexdigest()):
        raise Refused(f"{path} is not what was written: its checksum does not match; take another backup")
    return header, trailer


def writes_of(path: Path) -> Iterator[Write]:
    """What a file that was checked holds. Raises `Refused` for a line that makes no sense."""
    with _opened(path) as file:
        next(file)
        for line in file:
            if not line.startswith(b'{"count":'):
                yield _write(path, line)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error


def _header(path: Path, line: bytes) -> Header:
    header = _decoded(path, line, Header)
    if header.format > FORMAT:
        raise Refused(
            f"{path} has format {header.format}, and this release knows {FORMAT}: "
            "restore it with the release that made it, or a newer one"
        )
    return header


def _decoded(path: Path, line: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is not a backup of ours, or damaged: {error}") from error


def _write(path: Path, line: bytes) -> Write:
    try:
        ((name, content),) = _RAW.decode(line).items()
        return _DECODERS[name].decode(content)
    except (ValueError, KeyError, msgspec.DecodeError) as error:
        raise Refused(f"{path} has a line that makes no sense: {line[:100]!r}: {error}") from error


async def fill(store: Store, path: Path, without: Collection[str] = ()) -> None:
    """Write a file that was checked into a store that is empty, open and has begun an epoch.

    Flags come last, and not those named in `without`: one of them says that the store knows every lease, and
    it must not say so before it does.
    """
    flags: list[Write] = []
    for some in chunks(writes_of(path), _TOGETHER):
        flags += [write for write in some if isinstance(write, PutFlag) and write.name not in without]
        await store.commit([write for write in some if not isinstance(write, PutFlag)])
    await store.commit(flags)


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, its owner's only, that takes its name when all went well. Raises `Refused`."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as into:
            yield into
            into.flush()
            os.fsync(into.fileno())
        partial.replace(path)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
