"""The ways between hosts, kept as they shall be: tunnels from each host to every other, and gateways.

Both follow from what is known here: the hosts and their tunnel addresses, and the pools.  There is nothing to
remember, so each host is simply told all of it, and does what differs (`fabric` and `gateway` of the host's
program).  It is told

  * when the daemon begins, after it is known what is whose,
  * when pools change, or an operator declares a host dead or sound again,
  * when it answers again after a silence,
  * with every comparison of the world with the records (`look`), which is how a missing tunnel is found.

Each host has a task of its own, so a silent one delays nobody; it is tried again, at last every `AGAIN_S`
seconds.  So is one that could not do it yet: the new host of a gateway waits until the old one has let go.
The operations go through the host's wiring lane and carry epoch and number like every change of ports.

A host that an operator has fenced is no peer: what may still run there reaches nobody through a tunnel.

A host that shall have nothing and has nothing is left in peace: with a flat fabric and no gateways no play
is ever made for this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Fatal, Refused, Retryable
from mooring.handlers.hosts import Answer, Hosts, Operation
from mooring.ipam.pools import Pool

log = structlog.get_logger(__name__)

FIRST_AGAIN_S = 2.0  # until a host that did not answer, or could not do it, is told again; then twice as long
AGAIN_S = 30.0  # and at most so long
_KINDS = {"added": "missing", "mended": "different", "removed": "surplus"}


@dataclass(frozen=True, slots=True)
class Mesh:
    """Tunnels between all hosts; without addresses there are none."""

    addresses: Mapping[str, str] = field(default_factory=dict)  # tunnel address by host
    vni: int = 1
    port: int = 4789
    mtu: int | None = None  # the default and the largest MTU in a pool


@dataclass(frozen=True, slots=True)
class Deviance:
    """Something on a host was not as it shall be."""

    kind: str  # missing, different or surplus
    what: str  # "fabric" or "gateway"
    key: str


@dataclass(slots=True)
class Sight:
    """What one look has found; `unsure` tells by place what could not be read, or is not well."""

    deviances: list[Deviance] = field(default_factory=list)
    unsure: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)  # "fabric", "gateway"


def fabric_of(host: str, mesh: Mesh, fenced: Iterable[str] = ()) -> Operation:
    """The tunnels of one host: to every other that has a tunnel address and is not fenced."""
    others = sorted(mesh.addresses.keys() - {host, *fenced}) if host in mesh.addresses else []
    peers = [{"name": other, "address": mesh.addresses[other]} for other in others]
    local = mesh.addresses[host] if peers else None
    return {
        "op": "fabric",
        "id": "fabric",
        "local": local,
        "vni": mesh.vni,
        "port": mesh.port,
        "peers": peers,
    }


def gateways_of(host: str, pools: Iterable[Pool], mtu: int | None = None) -> Operation:
    """The gateways of one host: one for each pool that names it."""
    gateways = [
        {
            "pool": pool.name,
            "address": str(pool.gateway),
            "prefix": pool.network.prefixlen,
            "vlan": pool.vlan,
            "mtu": mtu_of(pool.mtu, mtu),
            "nat": pool.gateway_nat,
        }
        for pool in sorted(pools, key=lambda pool: pool.name)
        if pool.gateway_host == host and pool.gateway is not None
    ]
    return {"op": "gateway", "id": "gateway", "gateways": gateways}


def mtu_of(wanted: int | None, limit: int | None) -> int | None:
    """What a pool gets that wants this MTU, where the fabric has that limit."""
    return min((size for size in (wanted, limit) if size is not None), default=None)


class Fabric:
    """Keeps tunnels and gateways on all hosts."""

    def __init__(
        self,
        hosts: Hosts,
        names: Sequence[str],
        mesh: Mesh,
        pools: Callable[[], Iterable[Pool]],
        clock: Clock,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        """`names`: the hosts of the inventory; `pools` gives those in force.

        `paused` tells whether all effects wait.
        """
        self._paused = paused
        self._hosts = hosts
        self._mesh = mesh
        self._pools = pools
        self._clock = clock
        self._due = {name: asyncio.Event() for name in names}
        self._has: dict[str, bool] = {}  # hosts to which something was sent: whether they may have anything
        self._troubles: dict[str, str] = {}
        hosts.attendance.returned.append(self._returned)

    async def run(self) -> None:
        """Keep every host in line. Ends only by cancellation or a `Fatal` error."""
        async with asyncio.TaskGroup() as group:
            for name in self._due:
                group.create_task(self._keep(name), name=f"fabric {name}")

    def wake(self) -> None:
        """Pools or fences have changed: every host is told anew."""
        for due in self._due.values():
            due.set()

    async def look(self, *, repair: bool = True) -> Sight:
        """Compare all hosts with what shall be; what differs is mended, unless `repair` is False."""
        sight = Sight()
        await asyncio.gather(*(self._look_at(name, repair, sight) for name in self._due))
        return sight

    def _returned(self, host: str) -> None:
        if host in self._due:
            self._due[host].set()

    async def _keep(self, host: str) -> None:
        pause_s = FIRST_AGAIN_S
        while True:
            self._due[host].clear()
            settled = await self._bring_into_line(host)
            due = asyncio.ensure_future(self._due[host].wait())
            # What is settled waits for a reason; a loss that nobody tells of is found by the next look.
            waits = [due] if settled else [due, asyncio.ensure_future(self._clock.sleep(pause_s))]
            pause_s = FIRST_AGAIN_S if settled else min(2 * pause_s, AGAIN_S)
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()

    async def _bring_into_line(self, host: str) -> bool:
        """Whether the host has confirmed what it was told, or needs nothing."""
        if self._paused():
            return False
        try:
            answers = await self._tell(host)
        except (Retryable, Refused) as error:
            self._note(host, str(error))
            return False
        except Fatal:
            raise
        except Exception as error:  # a defect met on one host must not take the daemon from all others
            log.exception("a defect while the fabric was being set", host=host, error=repr(error))
            return False
        troubles = [str(answer.get("reason")) for answer in answers if answer.get("status") != "done"]
        self._note(host, "; ".join(troubles))
        for answer in answers:
            if answer.get("changed"):
                told = {key: answer[key] for key in _KINDS if answer.get(key)}
                log.info(f"{answer['id']} set", host=host, **told)
        return not troubles

    async def _tell(self, host: str, *, check: bool = False) -> list[Answer]:
        """Send what shall be there; [] where there is nothing and shall be nothing."""
        if host in self._hosts.fenced:
            return []
        operations = [
            fabric_of(host, self._mesh, self._hosts.fenced),
            gateways_of(host, self._pools(), self._mesh.mtu),
        ]
        wanted = any(operation.get("peers") or operation.get("gateways") for operation in operations)
        if not wanted and not self._may_have(host):
            return []
        if check:
            return await self._hosts.do(host, [{**operation, "check": True} for operation in operations])
        self._has[host] = True
        answers = await self._hosts.do(host, operations)
        self._has[host] = wanted or any(answer.get("status") != "done" for answer in answers)
        return answers

    def _may_have(self, host: str) -> bool:
        census = self._hosts.attendance.censuses.get(host)
        return self._has.get(host, census is None or census.fixtures > 0)

    def _note(self, host: str, trouble: str) -> None:
        """Log what is new."""
        if trouble and self._troubles.get(host) != trouble:
            log.warning("fabric not set", host=host, reason=trouble)
        self._troubles[host] = trouble

    async def _look_at(self, host: str, repair: bool, sight: Sight) -> None:
        try:
            answers = await self._tell(host, check=not repair)
        except (Retryable, Refused) as error:
            sight.unsure[f"fabric on {host}"] = f"not read now: {error}"
            return
        for answer in answers:
            what = str(answer["id"])
            if answer.get("status") == "done":
                sight.read.add(what)
            else:
                sight.unsure[f"{what} on {host}"] = str(answer.get("reason"))
            for key, kind in _KINDS.items():
                sight.deviances += [Deviance(kind, what, f"{one} on {host}") for one in answer.get(key, ())]
            deaf = [str(one["peer"]) for one in answer.get("tunnels", ()) if not one.get("heard")]
            if deaf:
                sight.unsure[f"fabric on {host}"] = f"nothing is heard from {', '.join(sorted(deaf))}"
