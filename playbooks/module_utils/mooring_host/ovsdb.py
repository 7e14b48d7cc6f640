"""The switch database over its own protocol: JSON-RPC on a Unix socket (RFC 7047).

`ovs-vsctl` costs a process per call, exits 0 for a device that does not exist, and a call of it that times
out has still committed.  Speaking the protocol gives one transaction for any number of ports, `wait`
operations that make the transaction void if somebody else changed what we planned on, and the switch
daemon's own acknowledgement (`cur_cfg` reaching our `next_cfg`).
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

DATABASE = "Open_vSwitch"
Operation = dict[str, Any]
Row = dict[str, Any]


class OvsdbUnreachable(Exception):
    """The database server did not answer; whether a transaction was committed is unknown."""


class OvsdbRejected(Exception):
    """The server refused the transaction; nothing of it was applied."""


class OvsdbStale(OvsdbRejected):
    """A `wait` of the transaction did not hold: somebody changed the rows since they were read."""


def strings(mapping: dict[str, str]) -> list[Any]:
    """Encode a string map as the wire wants it."""
    return ["map", [[key, value] for key, value in sorted(mapping.items())]]


def mapping(value: Any) -> dict[str, str]:
    """Decode a wire map."""
    return {str(key): str(item) for key, item in value[1]}


def members(value: Any) -> list[Any]:
    """Decode a wire set; a set of one travels as its bare member."""
    if isinstance(value, list) and value and value[0] == "set":
        return list(value[1])
    return [value]


def first(value: Any) -> Any:
    """The only member of an optional column, or None."""
    found = members(value)
    return found[0] if found else None


class Ovsdb:
    """One connection to the database server."""

    def __init__(self, path: str, timeout_s: float = 10.0) -> None:
        self._decoder = json.JSONDecoder()
        self._buffer = b""
        self._next_id = 0
        self._timeout_s = timeout_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise OvsdbUnreachable(f"no Open vSwitch database at {path}: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def transact(self, operations: list[Operation]) -> list[Row]:
        """Run the operations as one transaction and return one result per operation.

        Raises OvsdbStale when a `wait` did not hold, OvsdbRejected for any other refusal (nothing was changed
        in either case) and OvsdbUnreachable when no answer came.
        """
        results: list[Row] = self._ask("transact", [DATABASE, *operations])
        for result in results:
            if result and result.get("error"):
                self._refuse(result)
        return results

    def schema_version(self) -> str:
        """The version of the database's schema."""
        return str(self._ask("get_schema", [DATABASE])["version"])

    def _ask(self, method: str, params: list[Any]) -> Any:
        self._next_id += 1
        try:
            self._send({"method": method, "params": params, "id": self._next_id})
            answer = self._answer()
        except OSError as error:
            raise OvsdbUnreachable(f"the Open vSwitch database stopped answering: {error}") from error
        if answer.get("error"):
            raise OvsdbRejected(f"the Open vSwitch database refused the request: {answer['error']}")
        return answer["result"]

    @staticmethod
    def _refuse(result: Row) -> None:
        detail = f"{result['error']}: {result.get('details', '')}"
        if result["error"] == "timed out":
            raise OvsdbStale("the switch changed while the change was being prepared")
        raise OvsdbRejected(f"the Open vSwitch database refused the transaction: {detail}")

    def wait_applied(self, wanted: int, timeout_s: float) -> bool:
        """Wait until the switch daemon has applied configuration number `wanted`; False at the deadline."""
        deadline = time.monotonic() + timeout_s
        seen = self._applied()
        while seen < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                self.transact([self._wait_changed(seen, min(left, self._timeout_s / 2))])
            except OvsdbStale:
                continue
            seen = self._applied()
        return True

    def _applied(self) -> int:
        select = {"op": "select", "table": DATABASE, "where": [], "columns": ["cur_cfg"]}
        return int(self.transact([select])[0]["rows"][0]["cur_cfg"])

    @staticmethod
    def _wait_changed(seen: int, timeout_s: float) -> Operation:
        return {
            "op": "wait", "table": DATABASE, "where": [], "columns": ["cur_cfg"], "until": "!=",
            "rows": [{"cur_cfg": seen}], "timeout": max(1, int(timeout_s * 1000)),
        }  # fmt: skip

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message, separators=(",", ":")).encode())

    def _answer(self) -> dict[str, Any]:
        while True:
            message = self._receive()
            if message.get("method") == "echo":
                # The server probes idle clients and drops those that stay silent.
                self._send({"result": message["params"], "error": None, "id": message["id"]})
            elif message.get("id") == self._next_id:
                return message

    def _receive(self) -> dict[str, Any]:
        """Return the next message; messages follow one another without a separator."""
        while True:
            # Parsing only behind a closing brace keeps a large answer from being parsed for every packet.
            if self._buffer.endswith(b"}") and (message := self._whole_message()) is not None:
                return message
            data = self._socket.recv(1 << 16)
            if not data:
                raise OSError("connection closed")
            self._buffer += data

    def _whole_message(self) -> dict[str, Any] | None:
        """Take the first message out of the buffer; None if the brace at its end is in the middle of one."""
        try:
            text = self._buffer.decode()
            message, end = self._decoder.raw_decode(text)
        except ValueError:
            return None
        self._buffer = text[end:].lstrip().encode()
        return dict(message)
