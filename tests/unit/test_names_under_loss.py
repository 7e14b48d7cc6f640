"""Whatever gets lost, and whenever the daemon dies, the names end as they should and strangers keep theirs.

Hypothesis invents what the bindings want, which updates lose their answer before or after they were carried
out, and where the daemon restarts with nothing but what `SinkState` remembers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.core.errors import Retryable
from mooring.core.model import BindingId, Epoch, SinkState
from mooring.core.sink import Change, Done
from mooring.core.specs import NameSpec, SharedNameSpec
from mooring.dns.memory import MemoryServer
from mooring.dns.records import Question, RRset, Unanswered, Update
from mooring.dns.sinks import SeatNames, SharedNames

ZONE, REVERSE = "mooring.test", "64.10.in-addr.arpa"
STRANGER = ("printer." + ZONE, "A")
BINDINGS = 3

# which binding, which of its two names, which of its two addresses; no address means it leaves
seat_moves = st.tuples(st.integers(0, BINDINGS - 1), st.integers(0, 1), st.sampled_from([None, 0, 1]))
# shared names: any binding may show any address, also one that another shows
shares = st.tuples(st.integers(0, BINDINGS - 1), st.just(0), st.sampled_from([None, 0, 1, 2]))
losses = st.lists(st.sampled_from(["", "", "before", "after"]), max_size=30)
restarts = st.sets(st.integers(0, 12))


class LossyServer(MemoryServer):
    """Loses answers as told, then none any more."""

    def __init__(self, fates: list[str]) -> None:
        super().__init__([ZONE, REVERSE])
        self.fates = fates
        self.sets[STRANGER] = RRset(frozenset({"192.0.2.1"}), 60)

    async def update(self, update: Update) -> str:
        fate = self.fates.pop(0) if self.fates else ""
        if fate == "before":
            raise Unanswered("lost on its way there")
        code = await super().update(update)
        if fate == "after":
            raise Unanswered("lost on its way back")
        return code


class Daemon:
    """As much of one as a sink needs: it stores what is wanted first and what was confirmed after."""

    def __init__(self, server: MemoryServer, kind: type[SeatNames] | type[SharedNames]) -> None:
        self.server = server
        self.kind = kind
        self.states: dict[BindingId, SinkState] = {}
        self.epoch = 0

    async def start(self) -> None:
        self.epoch += 1
        reverse = [REVERSE] if self.kind is SeatNames else []
        self.sink = self.kind(self.server, zones=[ZONE], reverse_zones=reverse, owner="site-a")
        await self.sink.prime({binding: self._maybe_out(state) for binding, state in self.states.items()})

    async def want(self, binding: BindingId, wanted: NameSpec | SharedNameSpec | None) -> None:
        self.states[binding] = self.states.get(binding, SinkState()).want(wanted)
        await self.converge(binding)

    async def converge(self, binding: BindingId) -> None:
        state = self.states[binding]
        was = tuple(spec for spec in (state.applied, *state.residue) if spec is not None)
        change = Change(binding, state.wanted, was, state.generation, Epoch(self.epoch))
        try:
            (outcome,) = await self.sink.apply([change])
        except Retryable:
            return
        if isinstance(outcome, Done):
            self.states[binding] = state.confirmed(state.generation, state.wanted)

    async def settle(self) -> None:
        while not all(state.settled for state in self.states.values()):
            for binding in self.states:
                await self.converge(binding)

    def _maybe_out(self, state: SinkState) -> list[NameSpec | SharedNameSpec]:
        found = (state.wanted, state.applied, *state.residue)
        return [spec for spec in found if isinstance(spec, NameSpec | SharedNameSpec)]


async def _play(
    daemon: Daemon, moves: list[tuple[BindingId, NameSpec | SharedNameSpec | None]], restarts: set[int]
) -> None:
    await daemon.start()
    for number, (binding, wanted) in enumerate(moves):
        if number in restarts:
            await daemon.start()
        await daemon.want(binding, wanted)
    await daemon.settle()
    seen = (await daemon.sink.observe()).shown
    assert set(seen.values()) == {state.wanted for state in daemon.states.values() if state.wanted}
    _consistent(daemon.server.sets)
    for binding in daemon.states:
        await daemon.want(binding, None)
    await daemon.settle()
    left = {name for name, _ in daemon.server.sets} - {ZONE, REVERSE, STRANGER[0]}
    assert all("_mooring-epoch" in name for name in left)
    assert daemon.server.sets[STRANGER].values == {"192.0.2.1"}


def _consistent(sets: Mapping[Question, RRset]) -> None:
    """Every pointer leads to a name that leads back."""
    for (pointer, type_), rrset in sets.items():
        if type_ == "PTR":
            (name,) = rrset.values
            (address,) = sets[name, "A"].values
            assert pointer == ".".join(address.split(".")[::-1]) + ".in-addr.arpa"


@settings(deadline=None)
@given(st.lists(seat_moves, max_size=12), losses, restarts)
def test_seats(moves: list[tuple[int, int, int | None]], fates: list[str], restarts: set[int]) -> None:
    wanted = [
        (
            BindingId(f"b{who}"),
            None if end is None else NameSpec(f"s{who}-{which}.{ZONE}", f"10.64.{who}.{end}", 10),
        )
        for who, which, end in moves
    ]
    asyncio.run(_play(Daemon(LossyServer(fates), SeatNames), list(wanted), restarts))


@settings(deadline=None)
@given(st.lists(shares, max_size=12), losses, restarts)
def test_shared(moves: list[tuple[int, int, int | None]], fates: list[str], restarts: set[int]) -> None:
    wanted = [
        (BindingId(f"b{who}"), None if end is None else SharedNameSpec(f"app.{ZONE}", f"10.64.0.{end}", 10))
        for who, _, end in moves
    ]
    asyncio.run(_play(Daemon(LossyServer(fates), SharedNames), list(wanted), restarts))
