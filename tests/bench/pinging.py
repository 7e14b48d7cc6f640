"""Echo requests from inside a network namespace, and when each address first answered.

One raw socket and one thread: what it sends and hears must not wait for the event loop of whoever measures.
While an address is unknown the kernel asks for it by ARP, once a second by default; `every_s` sets that pace
as well, so that an answer is not late because the question was.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace

_ECHO, _REPLY = 8, 0


class Pinger:
    """Asks addresses again and again, from the namespace of a process."""

    def __init__(self, pid: int, interface: str, every_s: float = 0.005) -> None:
        self._every_s = every_s
        self._identity = os.getpid() & 0xFFFF
        self._asked: set[str] = set()
        self._stop = threading.Event()
        self.answered: dict[str, float] = {}  # address: wall-clock seconds of its first answer
        self.last: dict[str, float] = {}
        with NetworkNamespace(f"/proc/{pid}/ns/net").entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            pace = Path(f"/proc/sys/net/ipv4/neigh/{interface}")
            (pace / "retrans_time_ms").write_text(str(max(1, int(every_s * 1000))))
            (pace / "mcast_solicit").write_text("1000")
        self._socket.settimeout(every_s)
        self._thread = threading.Thread(target=self._run, name="pinger")
        self._thread.start()

    def ask(self, addresses: Iterable[str]) -> None:
        """Ask these from now on, and nobody else."""
        self._asked = set(addresses)
        for address in self._asked:
            self.answered.pop(address, None)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        number = 0
        due = time.monotonic()
        while not self._stop.is_set():
            if time.monotonic() >= due:
                number = (number + 1) & 0xFFFF
                self._send(number)
                due = time.monotonic() + self._every_s
            self._hear()

    def _send(self, number: int) -> None:
        request = _packet(self._identity, number)
        for address in tuple(self._asked):
            try:
                self._socket.sendto(request, (address, 0))
            except OSError:
                continue  # nobody there yet

    def _hear(self) -> None:
        try:
            data, (address, _) = self._socket.recvfrom(256)
        except (TimeoutError, OSError):
            return
        header = (data[0] & 0xF) * 4
        kind, _, _, identity, _ = struct.unpack_from("!BBHHH", data, header)
        if (kind, identity) == (_REPLY, self._identity) and address in self._asked:
            self.last[address] = time.time()
            self.answered.setdefault(address, self.last[address])


def _packet(identity: int, number: int) -> bytes:
    body = b"mooring!"
    draft = struct.pack("!BBHHH", _ECHO, 0, 0, identity, number) + body
    total = sum(struct.unpack(f"!{len(draft) // 2}H", draft))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", _ECHO, 0, ~total & 0xFFFF, identity, number) + body
