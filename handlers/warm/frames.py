"""Messages between daemon, server and plays: JSON behind its length, over a socket pair.

`Wire` is one end that never blocks: what cannot be sent yet is kept, and what came in parts is put together.
The length is four bytes in network order.  (The action plugin speaks the same and stands alone, because it
may import nothing of ours.)
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

Message = dict[str, Any]
_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 18


def pack(message: Message) -> bytes:
    """One message as it goes over the wire."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Puts together what arrives in parts."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take in some bytes; the messages that are whole now. Raises ValueError for what is not JSON."""
        self._buffer += data
        whole = []
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            whole.append(dict(json.loads(bytes(self._buffer[_LENGTH.size : end]))))
            del self._buffer[:end]
        return whole


class Wire:
    """One end of a connection, for a loop that waits with a selector."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._frames = Frames()
        self._unsent = bytearray()

    @property
    def wants_to_send(self) -> bool:
        """Whether something waits for the other side to read."""
        return bool(self._unsent)

    def receive(self) -> list[Message] | None:
        """What has arrived; None when the other side is gone."""
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self._frames.feed(data) if data else None

    def send(self, message: Message) -> None:
        """Send a message, now or when the other side reads; to one that is gone it is lost."""
        self._unsent += pack(message)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the other side takes it."""
        try:
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()  # it will be seen as gone when it is read from
