"""What the twins in Python check about their arguments, so that they refuse what those in C refuse."""

from __future__ import annotations

import operator
import sys
from collections.abc import Collection


def checked_limit(limit: int) -> int:
    """`limit` if it is a usable number of bytes. Raises TypeError or ValueError."""
    limit = operator.index(limit)
    if not 1 <= limit <= sys.maxsize:
        raise ValueError("limit must be at least one byte and fit into memory")
    return limit


def checked_names(wanted: Collection[str] | None) -> dict[bytes, str] | None:
    """Event types by their bytes on the wire. Raises TypeError; UnicodeEncodeError for a lone surrogate."""
    if wanted is None:
        return None
    if isinstance(wanted, str):  # also a collection of strings, and never what was meant
        raise TypeError("wanted must be a collection of event types, not one string")
    names = list(wanted)
    if not all(isinstance(name, str) for name in names):
        raise TypeError("wanted must hold strings only")
    return {name.encode(): name for name in names}


def checked_key(key: str | None) -> bytes | None:
    """The bytes of a member's name as it stands in a document. Raises TypeError or ValueError."""
    if key is None:
        return None
    if not isinstance(key, str):
        raise TypeError("key must be a string or None")
    name = key.encode()
    if any(byte < 0x20 or byte in b'"\\' for byte in name):
        raise ValueError("key must not need an escape in JSON")
    return name


def as_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """The bytes of a buffer. Raises TypeError if it is none, BufferError if it has gaps."""
    if isinstance(data, bytes):
        return data
    with memoryview(data) as view:
        if not view.c_contiguous:
            raise BufferError("memoryview: underlying buffer is not C-contiguous")
        return view.tobytes()
