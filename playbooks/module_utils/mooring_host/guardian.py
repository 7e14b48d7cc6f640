"""The guardian of one bridge: puts the rules back when ovs-vswitchd has started, without anybody's help.

    python3 -m mooring_host.guardian --owner mooring --bridge br-mooring

It holds a connection to the bridge's OpenFlow socket and does nothing as long as that stands.  When
ovs-vswitchd ends, for whatever reason, the connection does too; from then on the guardian knocks every
`KNOCK_S`, and with the first connection it brings the bridge into line (see `isolation`).  What the rules are
stands in the ports' marks in the database, so nothing is saved and nothing can be out of date, and neither
the controller nor the network is needed.  It looks again after `SETTLE_S`, when the switch has numbered all
ports anew, and then every `LOOK_S`, which mends what somebody deletes by hand.

It restores the meters of limited ports in the same way (see `upkeep`), and the gateways that the host keeps
(see `gateway`).  It changes what carries our cookie
and nothing else.  While it runs it holds a lock, by which others know
that somebody will restore the rules; only then do they make the bridge secure.
"""

from __future__ import annotations

import argparse
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import gateway
from .host import FAILURES, Host, Settings
from .isolation import guardian_turn, isolate
from .openflow import management_socket
from .turns import my_turn
from .upkeep import restore_limits

KNOCK_S = 0.05  # between two attempts to connect
AGAIN_S = 0.2  # after a look that failed
SETTLE_S = 1.0
LOOK_S = 5.0
_VERSION = 5  # OpenFlow 1.4
_HEADER = struct.Struct("!BBHI")  # version, type, length, number
_HELLO, _ECHO_REQUEST, _ECHO_REPLY = 0, 2, 3


class ConnectionEnded(Exception):
    """The switch daemon has gone, or wants nothing to do with us."""


class Connection:
    """An OpenFlow connection that only stands there; raises OSError if nobody listens."""

    def __init__(self, path: str) -> None:
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(LOOK_S)
        try:
            self._socket.connect(path)
            self._send(_HELLO, 1)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def stand(self, seconds: float) -> None:
        """Answer the switch for so long; raises ConnectionEnded when it has gone."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                self._answer()

    def _answer(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise ConnectionEnded(str(error)) from error
        if not data:
            raise ConnectionEnded("the switch daemon closed the connection")
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            _, kind, length, number = _HEADER.unpack_from(self._buffer)
            if length < _HEADER.size:
                raise ConnectionEnded("what the switch daemon says is not OpenFlow")
            if len(self._buffer) < length:
                return
            body, self._buffer = self._buffer[_HEADER.size : length], self._buffer[length:]
            if kind == _ECHO_REQUEST:
                self._send(_ECHO_REPLY, number, body)

    def _send(self, kind: int, number: int, body: bytes = b"") -> None:
        try:
            self._socket.sendall(_HEADER.pack(_VERSION, kind, _HEADER.size + len(body), number) + body)
        except OSError as error:
            raise ConnectionEnded(str(error)) from error


class Guardian:
    """Watches one bridge until it is told to end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._socket = management_socket(settings.database, settings.bridge)
        self._told = ""

    def run(self) -> None:
        """For ever: whatever goes wrong is told once, and tried again."""
        while True:
            try:
                connection = Connection(self._socket)
            except (OSError, ConnectionEnded):
                time.sleep(KNOCK_S)
                continue
            began = time.monotonic()
            try:
                self._watch(connection)
            except ConnectionEnded:
                # A switch that turns us away at once would else be asked, and read, without pause.
                time.sleep(KNOCK_S if time.monotonic() - began > SETTLE_S else SETTLE_S)
            finally:
                connection.close()

    def _watch(self, connection: Connection) -> None:
        """Until the connection ends."""
        pause = SETTLE_S
        while True:
            if self._look():
                connection.stand(pause)
                pause = LOOK_S
            else:
                connection.stand(AGAIN_S)

    def _look(self) -> bool:
        """Bring the bridge into line; False if its rules could not be, which nothing else makes up for."""
        host = Host(self._settings)
        try:
            told = isolate(host, secure=False)
            rest = [
                reason for restore in (restore_limits, gateway.restore) if (reason := _tried(restore, host))
            ]
        except FAILURES as error:
            return self._tell(f"bridge {self._settings.bridge}: {error}")
        except Exception as error:  # whatever it is, nobody else would restore the rules
            return self._tell(f"bridge {self._settings.bridge}: unexpected {type(error).__name__}: {error}")
        finally:
            host.close()
        if told.mended:
            print(f"bridge {self._settings.bridge}: rules put in, of {len(told.changed)} ports", flush=True)
        if rest:
            self._tell(f"bridge {self._settings.bridge}: {'; '.join(rest)}")
        else:
            self._told = ""
        return True

    def _tell(self, line: str) -> bool:
        if line != self._told:
            print(line, file=sys.stderr, flush=True)
        self._told = line
        return False


def _tried(restore: Callable[[Host], Any], host: Host) -> str:
    """Why it was not possible; "" if it was."""
    try:
        restore(host)
    except FAILURES as error:
        return str(error)
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; returns 1 if another guardian watches the bridge already."""
    settings = settings_of(argv)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    with my_turn(settings.state_dir, guardian_turn(settings.bridge)) as alone:
        if not alone:
            print(f"another guardian watches bridge {settings.bridge}", file=sys.stderr)
            return 1
        Guardian(settings).run()
    return 0


def settings_of(argv: Sequence[str] | None = None) -> Settings:
    """What the words of the command line mean. Ends the program if they mean nothing."""
    return Settings(epoch=0, **vars(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mooring_host.guardian", description="Restores a bridge's rules.")
    parser.add_argument("--owner", required=True, help="mark of the Mooring instance")
    parser.add_argument("--bridge", required=True, help="the Open vSwitch bridge to watch")
    parser.add_argument("--database", default=Settings.database, help="socket of the database server")
    parser.add_argument("--state-dir", default=Settings.state_dir, help="as the host program's state_dir")
    return parser


def _end(*_: Any) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
