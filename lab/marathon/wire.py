"""The bytes of Marathon's event stream.

Jetty's event source servlet frames each event as two CRLF lines and an empty one; the heartbeat is
a bare CRLF whose two bytes are flushed one after the other, so a reader may see a lone CR.
"""

from __future__ import annotations

import msgspec

from mooring.lab.marathon.model import Json

HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Date: %b\r\n"
    b"Cache-Control: no-cache, no-store, must-revalidate\r\n"
    b"Pragma: no-cache\r\n"
    b"Expires: 0\r\n"
    b"X-Marathon-Leader: %b\r\n"
    b"Content-Type: text/event-stream;charset=utf-8\r\n"
    b"Connection: close\r\n"
    b"\r\n"
)
HEARTBEAT = (b"\r", b"\n")


def encode(event: Json) -> bytes:
    """One event as it goes over the wire."""
    name = str(event.get("eventType", "")).encode()
    return b"event: %b\r\ndata: %b\r\n\r\n" % (name, msgspec.json.encode(event))
