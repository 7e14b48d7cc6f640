"""The balancer's twin: a world in memory, and the sink in front of it.

`MemoryProxy` stands for the process and its files: it survives the sink, can be emptied as by a
stranger's restart, and can be away.  `MemoryBalancer` does what the real sinks do, with the same desk,
and passes the same contract tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mooring.core.errors import Fenced
from mooring.core.model import BindingId, Epoch, SinkName
from mooring.core.sink import Change, Done, Observation, Outcome, RetryAfter
from mooring.core.specs import Endpoint, MemberSpec, Spec
from mooring.lb.desk import Desk
from mooring.lb.model import ServiceKey, Table

HTTP_PORT = 80
_NEVER = Epoch(0)
_DEFAULT_NAME = SinkName("haproxy")


@dataclass(slots=True)
class MemoryProxy:
    """What stands at the balancer."""

    members: dict[str, MemberSpec] = field(default_factory=dict)
    claims: dict[str, ServiceKey] = field(default_factory=dict)
    epoch: Epoch = _NEVER
    away: bool = False
    reloads: int = 0

    def up(self, claim: str) -> list[Endpoint]:
        """Members that take traffic for `host <name>` or `port <number>`, by natural key."""
        key = self.claims.get(claim)
        return [
            endpoint
            for _, spec in sorted(self.members.items())
            for endpoint in spec.endpoints
            if spec.state == "up" and (endpoint.service.app, endpoint.service.index) == key
        ]


class MemoryBalancer:
    """A balancer sink over a `MemoryProxy`."""

    def __init__(self, proxy: MemoryProxy, name: SinkName = _DEFAULT_NAME) -> None:
        """Serve as the sink `name`."""
        self.name = name
        self.proxy = proxy
        self._desk = Desk(reserved={HTTP_PORT: "the http frontend"})

    def lane(self, change: Change) -> str:
        """One balancer, one lane."""
        return self.name

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Fill the table from the store."""
        self._desk.prime(shown, dict(self.proxy.claims))

    async def check(self) -> str:
        """One line about the twin."""
        return f"a balancer in memory with {len(self.proxy.members)} members"

    async def observe(self) -> Observation:
        """Every member by `service/server`."""
        return Observation(dict(self.proxy.members))

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Take the changes in and show the table."""
        if self.proxy.epoch > max((change.epoch for change in changes), default=self.proxy.epoch):
            raise Fenced(f"the balancer was written by epoch {self.proxy.epoch}")
        flight = self._desk.take(changes)
        if self.proxy.away:
            return flight.outcomes(lambda _: RetryAfter("the balancer in memory is away"))
        shown, claims = _shown(flight.table), flight.table.claims()
        changed = shown != self.proxy.members
        self.proxy.reloads += claims != self.proxy.claims
        self.proxy.members, self.proxy.claims, self.proxy.epoch = shown, claims, self._desk.epoch
        self._desk.accept()
        return flight.outcomes(lambda _: Done(changed))


def _shown(table: Table) -> dict[str, MemberSpec]:
    return {
        f"{service.name}/{member.name}": MemberSpec(
            (Endpoint(service.terms, member.address, member.port),), member.state
        )
        for service in table.services
        for member in service.members
    }
