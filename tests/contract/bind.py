"""A real BIND for tests: its own process, directory and ports on loopback, gone when the test is.

It serves one forward and one reverse zone that take updates signed with `KEY`.  One name is denied to that
key, and a second key may ask but change nothing, so that refusals are real ones.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.query

ZONE = "mooring.test"
REVERSE_ZONE = "64.10.in-addr.arpa"
REVERSE_ZONE_6 = "8.b.d.0.1.0.0.2.ip6.arpa"
ZONES = (ZONE, REVERSE_ZONE, REVERSE_ZONE_6)
KEY = "mooring-key"
READER_KEY = "reader-key"
SECRET = "bW9vcmluZy10ZXN0LXNlY3JldC1vZi0zMi1ieXRlcyE="  # means something only to this process
DENIED = f"denied.{ZONE}"
LARGEST_SET = 60

_CONFIG = """
key "{key}" {{ algorithm hmac-sha256; secret "{secret}"; }};
key "{reader}" {{ algorithm hmac-sha256; secret "{secret}"; }};
controls {{ }};
options {{
    directory "{directory}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    recursion no;
    notify no;
    empty-zones-enable no;
    dnssec-validation no;
    max-records-per-type {largest};
    allow-transfer {{ key "{key}"; }};
}};
logging {{
    channel file {{ file "{directory}/named.log"; severity info; }};
    category default {{ file; }};
}};
"""
_ZONE_CONFIG = """
zone "{zone}" {{
    type primary;
    file "{zone}.zone";
    update-policy {{ deny {key} name {denied}; grant {key} zonesub ANY; }};
}};
"""
_ZONE_FILE = """$TTL 10
@ IN SOA ns.mooring.test. admin.mooring.test. 1 3600 600 86400 5
@ IN NS ns.mooring.test.
"""


@dataclass(frozen=True)
class Named:
    """A running name server."""

    port: int
    directory: Path
    address: str = "127.0.0.1"


@contextmanager
def running_named(directory: Path) -> Iterator[Named]:
    """BIND on a free port of loopback, with its files under `directory`."""
    binary = shutil.which("named", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert binary, "BIND is missing: install the Debian package bind9"
    port = _free_port()
    (directory / "named.conf").write_text(_config(directory, port))
    for zone in ZONES:
        glue = "ns IN A 127.0.0.1\n" if zone == ZONE else ""
        (directory / f"{zone}.zone").write_text(_ZONE_FILE + glue)
    arguments = [binary, "-g", "-n", "1", "-c", str(directory / "named.conf")]
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
    try:
        _wait(process, port, directory)
        yield Named(port, directory)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _config(directory: Path, port: int) -> str:
    options = _CONFIG.format(
        key=KEY, reader=READER_KEY, secret=SECRET, directory=directory, port=port, largest=LARGEST_SET
    )
    return options + "".join(_ZONE_CONFIG.format(zone=zone, key=KEY, denied=DENIED) for zone in ZONES)


def _free_port() -> int:
    """A port that is free for TCP and UDP at this moment."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            with suppress(OSError):
                udp.bind(tcp.getsockname())
                return int(tcp.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, f"named ended: {(directory / 'output').read_text()[-2000:]}"
        with suppress(OSError, EOFError, dns.exception.DNSException):
            query = dns.message.make_query(REVERSE_ZONE, "SOA")
            if dns.query.tcp(query, "127.0.0.1", timeout=1, port=port).answer:
                return
        time.sleep(0.02)
    raise AssertionError(f"named does not answer: {(directory / 'output').read_text()[-2000:]}")
