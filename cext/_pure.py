"""An incremental Server-Sent-Events framer in plain Python: the twin of `sse.c`.

Bytes arrive in whatever pieces the network likes; complete events leave.  `bytes.splitlines` knows
exactly the three line ends that the format allows (CR, LF, CRLF) and works at C speed, so a piece is
split once and only its unfinished last line is kept.  A CR that ends a piece has ended its line already;
should the next piece begin with LF, that LF is its other half and is dropped.  That is how Marathon's
heartbeats arrive: CR and LF in separate writes.

Memory is bounded.  `limit` bounds one event: the lines kept for it plus the line being read.  An event
that outgrows it is skipped up to its empty line and counted, and the next one is read as usual.
Whether an event is skipped depends on its bytes alone, never on how the network cut them.

A type may be named after the data, and the last name counts.  So whether an event is wanted is decided
at its empty line; until then an unwanted event is kept, and bounded, like any other.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

from mooring.cext._arguments import as_bytes, checked_limit, checked_names
from mooring.cext.frame import DEFAULT_LIMIT, Frame

_BOM = b"\xef\xbb\xbf"


@final
class Framer:
    """Cuts a byte stream into events. One framer serves one connection."""

    def __init__(self, limit: int = DEFAULT_LIMIT, wanted: Collection[str] | None = None) -> None:
        """`limit` is the most bytes that one event may take.

        With `wanted` given, an event that names another type is counted and not returned. An event that
        names no type always is.
        """
        self.limit = checked_limit(limit)
        self.skipped = 0  # events over the limit
        self.unwanted = 0  # complete events whose type is not in `wanted`
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self._wanted = checked_names(wanted)
        self._start: bytes | None = b""  # what may become a BOM; None once the start has been read
        self._partial = bytearray()  # the line whose end has not come yet
        self._split_crlf = False  # the last piece ended in CR
        self._skipping = False
        self._kept = 0  # bytes of the lines kept for the event being read
        self._event = b""
        self._data: bytes | bytearray | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take the next piece of the stream and return the events it completed, in order."""
        piece = as_bytes(data)
        if self._start is not None:
            piece = self._after_bom(self._start + piece)
        if not piece:
            return []
        second_half = self._split_crlf and piece[0] == 0x0A
        self._split_crlf = piece[-1] == 0x0D
        if second_half:
            piece = piece[1:]
        if b"\n" not in piece and b"\r" not in piece:  # the middle of a large event: one fast look is enough
            if piece:
                self._keep_unfinished(piece)
            return []
        lines = piece.splitlines()
        unfinished = b"" if piece[-1] in b"\r\n" else lines.pop()
        frames: list[Frame] = []
        if self._partial:
            lines[0] = self._completed(lines[0])
        self._read(lines, frames)
        if unfinished:
            self._keep_unfinished(unfinished)
        return frames

    def _after_bom(self, start: bytes) -> bytes:
        """Drop a byte order mark. What may still become one waits, so it never counts against the limit."""
        if start != _BOM and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_BOM)

    def _read(self, lines: list[bytes], frames: list[Frame]) -> None:
        """Interpret whole lines. Hot: everything Marathon sends in bulk is decided in this loop."""
        for line in lines:
            if not line:
                if self._data is not None:
                    self._dispatch(bytes(self._data), frames)
                self._begin_event()
            elif self._skipping:
                continue
            elif self._kept + len(line) > self.limit:
                self._skip_event()
            elif line.startswith(b"data: ") and self._data is None:
                self._kept += len(line)
                self._data = line[6:]
            elif line.startswith(b"event: "):
                self._kept += len(line)
                self._event = line[7:]
            else:
                self._read_field(line)

    def _dispatch(self, data: bytes, frames: list[Frame]) -> None:
        if not self._event:
            frames.append(Frame("message", data))
        elif self._wanted is None:
            frames.append(Frame(self._event.decode("utf-8", "replace"), data))
        elif (name := self._wanted.get(self._event)) is not None:
            frames.append(Frame(name, data))
        else:
            self.unwanted += 1

    def _add_data(self, value: bytes) -> None:
        if self._data is None:
            self._data = value
            return
        if isinstance(self._data, bytes):  # a second data line: from now on the value grows in place
            self._data = bytearray(self._data)
        self._data += b"\n"
        self._data += value

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"event":
            self._kept += len(line)
            self._event = value
        elif name == b"data":
            self._kept += len(line)
            self._add_data(value)
        elif name == b"id" and b"\0" not in value:
            self.last_event_id = value.decode("utf-8", "replace")
        elif name == b"retry" and len(value) < 10 and value.isdigit():
            self.retry_ms = int(value)

    def _begin_event(self) -> None:
        self._data = None
        self._event = b""
        self._kept = 0
        self._skipping = False

    def _skip_event(self) -> None:
        self._begin_event()
        self._skipping = True
        self.skipped += 1

    def _completed(self, end: bytes) -> bytes:
        self._partial += end
        line = bytes(self._partial)
        self._partial = bytearray()
        return line

    def _keep_unfinished(self, part: bytes) -> None:
        if not self._skipping and self._kept + len(self._partial) + len(part) > self.limit:
            self._skip_event()
        if self._skipping:
            # All that matters of this line is that it is not empty.
            self._partial = bytearray(b":")
        else:
            self._partial += part
