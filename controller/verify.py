"""A look at the world: what every sink really shows, beside what our records say, and repairs.

    1. every sink is read, all at once                     one that cannot be read spoils nothing else
    2. what differs is looked at a second time             a change that landed meanwhile is no difference
    3. what was seen twice is repaired on the ordinary path

                 repair
    missing,     the sink's state comes into doubt, so that the instance's own worker shows it again
    different
    surplus      a record that has it undone; a port with an address that nobody has is adopted, as at a
                 start, because something lives behind it; one behind which nothing lives is left to the
                 `collector`, which waits until it has been seen dead twice
    foreign      none: it is reported and left alone

Nothing is repaired that is paused; it is found again by the next look.  A daemon that only observes, or does
not know all leases yet, does not look: its records do not say what should be there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from msgspec import structs

from mooring.controller.adopt import Survey, adopt
from mooring.controller.breath import Breath
from mooring.controller.doubts import Doubts
from mooring.controller.drift import Deviation, Finding, Kind, deviations, expected_of, key_of
from mooring.controller.leftover import UNKNOWN_APP, leftover
from mooring.controller.weigh import known_to
from mooring.core.clock import Clock
from mooring.core.errors import Fatal, MooringError, Refused, Retryable
from mooring.core.model import AppId, BindingId, SinkName
from mooring.core.sink import Sink, Unreadable
from mooring.core.specs import ItemSpec, MemberSpec, NameSpec, PortSpec, SharedNameSpec, Spec
from mooring.core.store import NO_EPOCH, PutBinding, Write
from mooring.handlers.marks import Mark
from mooring.handlers.records import Records

log = structlog.get_logger(__name__)

SECOND_LOOK_S = 1.0
_MOST_LINES = 20  # in the log, of one look, sink and kind: an emptied balancer may have lost thousands
_STAYS = "left alone"
_WOULD = "would be repaired"
_REPAIRED = "is being repaired"
_COLLECTED = "is collected if it is found dead again later"


class Look(msgspec.Struct, frozen=True):
    """What one look has found."""

    at: float  # Unix seconds of its beginning
    took_s: float
    findings: tuple[Finding, ...]
    unread: dict[str, str]  # sink, or sink and place: why it could not be read
    read: tuple[str, ...]  # the sinks that were read, at least in part


@dataclass(frozen=True, slots=True)
class Beside:
    """What was found where no sink looks: repaired by whoever looked there, if he was to repair."""

    findings: Sequence[Finding] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    read: Collection[str] = ()


async def _nothing_beside(repair: bool) -> Beside:
    return Beside()


@dataclass(slots=True)
class _Sight:
    """What was seen of one sink."""

    deviations: list[Deviation] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    read: bool = True


class Verifier:
    """Looks, compares and has repaired."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        records: Records,
        clock: Clock,
        doubts: Doubts,
        *,
        every_s: float,
        wake: Callable[[BindingId], None],
        waits: Callable[[AppId], bool],
        hindrance: Callable[[], str],
        repaired: Callable[[str, str], None],
        looked: Callable[[Look], None],
        beside: Callable[[bool], Awaitable[Beside]] = _nothing_beside,
    ) -> None:
        """`wake` queues a key, `waits` says whether an app is paused, `hindrance` why no look makes sense.

        `repaired` is told sink and kind of each surplus that is undone, `looked` the result of each look.
        `beside` looks, and repairs if it is told to, where no sink does.
        """
        self._beside = beside
        self._sinks = {sink.name: sink for sink in sinks}
        self._records = records
        self._clock = clock
        self._doubts = doubts
        self._every_s = every_s
        self._wake = wake
        self._waits = waits
        self._hindrance = hindrance
        self._repaired = repaired
        self._looked = looked
        self._breath = Breath(clock)
        self._turn = asyncio.Lock()
        self._known: set[object] = set()  # what the log has been told of

    async def run(self) -> None:
        """Look again and again. Ends only by a `Fatal` error."""
        while True:
            await self._clock.sleep(self._every_s)
            if self._hindrance():
                continue
            try:
                await self.look()
            except Retryable as error:
                log.warning("not verified", reason=str(error))
            except Fatal:
                raise
            except Exception as error:
                # The next look tries again; an exception here must not end the daemon.
                log.exception("verifying failed", error=repr(error))

    async def look(self, *, repair: bool = True) -> Look:
        """Look now. Raises `Refused` while the records do not say what should be there."""
        if reason := self._hindrance():
            raise Refused(f"nothing to compare with: {reason}")
        async with self._turn:
            found, beside = await asyncio.gather(self._look(self._sinks, repair), self._beside(repair))
            found = _together(found, beside)
        if repair:
            self._tell(found)
        self._looked(found)
        return found

    async def look_at(self, part: Sink) -> Look:
        """Look at a part of one sink alone, such as one host of all, and have repaired what differs there.

        Raises `Refused` while the records do not say what should be there.
        """
        if reason := self._hindrance():
            raise Refused(f"nothing to compare with: {reason}")
        found = await self._look({part.name: part}, repair=True)
        self._tell(found, whole=False)
        return found

    async def _look(self, sinks: Mapping[SinkName, Sink], repair: bool) -> Look:
        at, began = self._clock.now(), self._clock.monotonic()
        sights = await self._see_twice(sinks)
        findings = []
        for deviation in (each for sight in sights.values() for each in sight.deviations):
            remedy = await self._treat(deviation, repair)
            findings.append(structs.replace(deviation.finding, remedy=remedy))
            await self._breath.draw()
        unread = dict(sorted(pair for sight in sights.values() for pair in sight.unread.items()))
        read = tuple(sorted(name for name, sight in sights.items() if sight.read))
        took_s = self._clock.monotonic() - began
        return Look(at, took_s, tuple(sorted(findings, key=_by_place)), unread, read)

    # -- looking

    async def _see_twice(self, sinks: Mapping[SinkName, Sink]) -> dict[SinkName, _Sight]:
        sights = await self._see(sinks.values())
        suspicious = [name for name, sight in sights.items() if any(map(_repairable, sight.deviations))]
        if not suspicious:
            return sights
        await self._clock.sleep(SECOND_LOOK_S)
        for name, again in (await self._see(sinks[name] for name in suspicious)).items():
            before = {key_of(deviation) for deviation in sights[name].deviations}
            again.deviations = [
                deviation
                for deviation in again.deviations
                if not _repairable(deviation) or key_of(deviation) in before
            ]
            sights[name] = again
        return sights

    async def _see(self, sinks: Iterable[Sink]) -> dict[SinkName, _Sight]:
        chosen = list(sinks)
        sights = await asyncio.gather(*map(self._see_one, chosen))
        return {sink.name: sight for sink, sight in zip(chosen, sights, strict=True)}

    async def _see_one(self, sink: Sink) -> _Sight:
        name = sink.name
        expected = await expected_of(name, self._records.all(), self._breath)
        try:
            seen = await sink.observe()
        except Fatal:
            raise
        except Unreadable as error:
            return _Sight(unread={name: str(error)}, read=False)
        except MooringError as error:
            return _Sight(unread={name: f"not read now: {error}"}, read=False)
        except Exception as error:
            log.exception("a defect while reading", sink=name, error=repr(error))
            return _Sight(unread={name: f"unexpected {type(error).__name__}: {error}"}, read=False)
        found = [
            deviation
            async for deviation in deviations(name, expected, seen, self._breath)
            if self._still_holds(deviation)
        ]
        unread = {f"{name} on {place}": f"not read now: {why}" for place, why in seen.unseen.items()}
        return _Sight(found, unread)

    def _still_holds(self, deviation: Deviation) -> bool:
        """Whether nobody has touched the claim since before the look."""
        claim = deviation.claim
        if claim is None:
            return True
        now = self._records.get(claim.binding.id)
        if now is None:
            return False
        state = now.sink(SinkName(deviation.finding.sink))
        return state.settled and state.generation == claim.generation

    # -- repairing

    async def _treat(self, deviation: Deviation, repair: bool) -> str:
        """What becomes of it, in words."""
        if not _repairable(deviation):
            return _STAYS
        app = _app_of(deviation)
        if self._waits(app):
            return "waits: paused"
        if deviation.dead:
            return _COLLECTED
        if not repair:
            return _WOULD
        sink, kind = SinkName(deviation.finding.sink), deviation.finding.kind
        if deviation.claim is not None:
            key = deviation.claim.binding.id
            self._doubts.cast(key, sink, deviation.claim.generation, kind)
            self._wake(key)
        else:
            assert deviation.stands is not None
            try:
                await self._undo(sink, deviation.stands, deviation.finding.key, app)
            except Retryable as error:
                return f"not repaired now: {error}"
            self._repaired(sink, kind)
        return _REPAIRED

    async def _undo(self, sink: SinkName, spec: Spec, key: str, app: AppId) -> None:
        if isinstance(spec, PortSpec) and not self._is_in_a_hand(spec.address):
            mark = Mark(spec, NO_EPOCH, alive=False)  # as if its container had got nothing from us yet
            await adopt(self._records, Survey(marks={spec.host: [mark]}), self._clock)
            return
        async with self._records.changing():
            if isinstance(spec, PortSpec) and known_to(self._records, spec) is not None:
                return  # another look was faster
            name = spec.instance if isinstance(spec, PortSpec) else key
            record = leftover(self._records.spare_id(name), app, sink, spec)
            await self._records.commit([PutBinding(record), *self._quarantine(spec)])
        self._wake(record.id)

    def _is_in_a_hand(self, address: str) -> bool:
        lease = self._records.book.by_address(address)
        return lease is not None and lease.binding is not None

    def _quarantine(self, spec: Spec) -> list[Write]:
        """A name leads to an address that nobody has: before anybody gets it, the name must have gone."""
        book = self._records.book
        if not isinstance(spec, NameSpec | SharedNameSpec):
            return []
        address = book.pools.leased(spec.address)
        if book.by_address(address) is not None:
            return []
        try:
            return list(book.plan_quarantine(address, self._clock.now(), "a name of ours led there"))
        except Refused:
            return []  # no pool of ours holds it

    # -- telling

    def _tell(self, found: Look, *, whole: bool = True) -> None:
        """Log what was not there at the look before, of each sink and kind only so much.

        A look at a part only adds to what the log has been told of.
        """
        known = self._known
        told: set[object] = {*found.unread, *map(_by_place, found.findings)}
        self._known = told if whole else known | told
        logged: Counter[tuple[str, str]] = Counter()
        for finding in found.findings:
            if _by_place(finding) not in known:
                logged[finding.sink, finding.kind] += 1
                if logged[finding.sink, finding.kind] <= _MOST_LINES:
                    log.warning("drift", **structs.asdict(finding))
        for (sink, kind), count in logged.items():
            if count > _MOST_LINES:
                log.warning("more drift", sink=sink, kind=kind, more=count - _MOST_LINES)
        for place in sorted(found.unread.keys() - known):
            log.info("not verified", place=place, reason=found.unread[place])


def counts(found: Look) -> Counter[tuple[str, str]]:
    """How many findings there are by sink and kind; sinks that were read have a number for every kind."""
    counted: Counter[tuple[str, str]] = Counter({(sink, kind): 0 for sink in found.read for kind in Kind})
    counted.update((finding.sink, finding.kind) for finding in found.findings)
    return counted


def _together(found: Look, beside: Beside) -> Look:
    """What the sinks showed, and what was found beside them."""
    return structs.replace(
        found,
        findings=tuple(sorted([*found.findings, *beside.findings], key=_by_place)),
        unread=dict(sorted({**found.unread, **beside.unread}.items())),
        read=tuple(sorted({*found.read, *beside.read})),
    )


def _repairable(deviation: Deviation) -> bool:
    return deviation.finding.kind is not Kind.FOREIGN


def _app_of(deviation: Deviation) -> AppId:
    if deviation.claim is not None:
        return deviation.claim.binding.app
    match deviation.stands:
        case PortSpec() | ItemSpec():
            return AppId(deviation.stands.app)
        case MemberSpec(endpoints=(first, *_)):
            return AppId(first.service.app)
    return UNKNOWN_APP


def _by_place(finding: Finding) -> tuple[str, str, str]:
    return (finding.sink, finding.kind, finding.key)
