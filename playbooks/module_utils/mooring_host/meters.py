"""OpenFlow meters of the bridge: the limit that a container cannot take away.

What shapes inside a container's namespace can be removed by a process with NET_ADMIN there; a meter lies in
the switch.  It drops what exceeds the rate, so it stands behind the shaper and must never meet what the
shaper has let pass: its bucket holds `BURST_S` of the rate, ten times as much as the shaper's, because the
switch reads a busy port's frames late and many at once.

`ovs-ofctl` speaks with the bridge over its management socket, which lies beside the database's.  A flow can
name only a meter that exists, and a meter that is deleted takes its flows along: so a meter is added before
its flows, and deleted after them.  A restart of the switch daemon forgets meters together with flows.

Meters carry no mark.  Which are ours is written down beforehand (see `limits`), and a number is derived
from the port's name, which no other start of a container has: a call that wakes late can never delete
another's.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Container as Collection
from dataclasses import dataclass

from .errors import Retry
from .host import Host
from .limits import cannot_limit

PROGRAM = "ovs-ofctl"
TIMEOUT_S = 5
BURST_S = 0.1
LEAST_BURST_KBIT = 512  # some tens of frames
_METER = re.compile(r"^meter=(\d+) (.*)\n((?:type=.*\n?)*)", re.MULTILINE)
_BAND = re.compile(r"type=drop rate=(\d+) burst_size=(\d+)\s*")
_USE = re.compile(r"meter:(\d+) flow_count:(\d+)")
_HIGHEST = re.compile(r"max_meter:(\d+)")


@dataclass(frozen=True)
class Meter:
    """What drops the excess: kbit/s, and kbit that may pass at once."""

    rate: int
    burst: int


def meter_for(rate: int) -> Meter:
    """The meter for a rate in bit/s."""
    kbit = -(-rate // 1000)
    return Meter(kbit, max(int(kbit * BURST_S), LEAST_BURST_KBIT))


def free_number(port: str, taken: Collection[int], highest: int) -> int:
    """The meter number for a port; raises Retry if the switch has no more."""
    first = int.from_bytes(hashlib.sha256(port.encode()).digest()[:8], "big")
    for step in range(min(highest, 4096)):
        number = 1 + (first + step) % highest
        if number not in taken:
            return number
    raise Retry(f"no OpenFlow meter is free for port {port}")


class Bridge:
    """The bridge, by its management socket; what fails is told in the program's own words."""

    def __init__(self, database: str, bridge: str) -> None:
        self._target = f"unix:{os.path.join(os.path.dirname(database), bridge)}.mgmt"

    def highest(self) -> int:
        """The highest number a meter can have; 0 where the datapath has no meters."""
        found = _HIGHEST.search(self.ask("meter-features"))
        return int(found[1]) if found else 0

    def meters(self) -> dict[int, Meter | None]:
        """All meters by number; None for one of another kind than ours."""
        return read_meters(self.ask("dump-meters"))

    def uses(self) -> dict[int, int]:
        """How many flows pass through each meter."""
        return {int(number): int(flows) for number, flows in _USE.findall(self.ask("meter-stats"))}

    def put(self, number: int, meter: Meter, *, exists: bool) -> None:
        """Add a meter, or change it without touching its flows."""
        band = f"band=type=drop,rate={meter.rate},burst_size={meter.burst}"
        self.ask("mod-meter" if exists else "add-meter", f"meter={number},kbps,burst,{band}")

    def delete(self, number: int) -> None:
        """Delete a meter, and the flows that still pass through it; one that is not there is no error."""
        self.ask("del-meter", f"meter={number}")

    def change_flows(self, lines: list[str]) -> None:
        """Add and delete flows, in the form of `ovs-ofctl add-flows`: all or none."""
        self.ask("add-flows", "-", options=("--bundle",), given="\n".join(lines))

    def ask(self, command: str, *words: str, options: tuple[str, ...] = (), given: str | None = None) -> str:
        """Run one command of `ovs-ofctl` and return what it prints; raises Retry, or Refused without it."""
        always = ("-O", "OpenFlow13", f"--timeout={TIMEOUT_S}")
        call = [PROGRAM, *always, *options, command, self._target, *words]
        try:
            done = subprocess.run(
                call, input=given, capture_output=True, text=True, timeout=TIMEOUT_S + 2, check=False
            )
        except FileNotFoundError as error:
            raise cannot_limit(f"the program {PROGRAM} is missing", "install Open vSwitch's tools") from error
        except subprocess.TimeoutExpired as error:
            raise Retry(f"ovs-ofctl {command} did not end: is ovs-vswitchd running?") from error
        if done.returncode:
            raise Retry(f"ovs-ofctl {command}: {' '.join(done.stderr.split())[:300]}")
        return done.stdout


def bridge_of(host: Host) -> Bridge:
    """The host's bridge."""
    return Bridge(host.settings.database, host.settings.bridge)


def read_meters(told: str) -> dict[int, Meter | None]:
    """What `dump-meters` prints."""
    found: dict[int, Meter | None] = {}
    for number, flags, bands in _METER.findall(told):
        band = _BAND.fullmatch(bands)
        ours = band is not None and flags.split()[:2] == ["kbps", "burst"]
        found[int(number)] = Meter(int(band[1]), int(band[2])) if ours and band else None
    return found
