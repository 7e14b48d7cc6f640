"""Brings names to what a batch of changes asks of them.

Look, plan, send one message per zone, and believe only an accepted one:

1. What the changes ask is gathered by name, because several may share one.
2. The facts are read.  Where one binding owns the name, what the change says was there is presumed first:
   it costs nothing, as the prerequisites of the edits will say if that was wrong.
3. Changes that meet a foreign name fall out, each with its reason; the others go on without them.
4. A failed prerequisite means that the facts were others: look again.  An update without an answer may have
   been carried out: look again, too.  Any other refusal of several changes is bisected until the bad one
   stands alone, so that it cannot hold up the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mooring.core.errors import Retryable
from mooring.core.model import Epoch
from mooring.core.sink import Done, NotPossible, Outcome, RetryAfter
from mooring.dns.fence import Fence, refusal
from mooring.dns.plan import Facts, Foreign, Site, Step, facts_of, plan, questions, unowned
from mooring.dns.records import OK, STALE, NameServer, Unanswered, Update

LOOKS = 3  # how often facts may turn out to have changed before a change is put off

Wish = Sequence[Site]  # what one change asks, one site for each name it touches


@dataclass(frozen=True, slots=True)
class _Trouble:
    """The first message that was not accepted."""

    zone: str
    code: str
    names: str
    claimed: str | None  # the first of them that was to be claimed


class Settlement:
    """One batch on its way to one name server."""

    def __init__(self, server: NameServer, fence: Fence, epoch: Epoch) -> None:
        self._server = server
        self._fence = fence
        self._epoch = epoch
        self._touched: set[str] = set()  # names that an update was sent for which was not refused

    async def settle(
        self, wishes: Sequence[Wish], *, presume: bool = True, looks: int = LOOKS
    ) -> list[Outcome]:
        """One outcome for each wish, in order; `Retryable` or `Refused` if the server as a whole fails."""
        if not wishes:
            return []
        sites = _gathered(wishes)
        facts = await self._facts(sites, presume)
        plans = {name: plan(site, facts[name]) for name, site in sites.items()}
        foreign = {name: found.reason for name, found in plans.items() if isinstance(found, Foreign)}
        if foreign:
            return await self._without(foreign, wishes, presume, looks)
        steps = {name: found for name, found in plans.items() if isinstance(found, Step) and found.edits}
        try:
            trouble = await self._send(sites, steps)
        except Unanswered:
            if looks <= 1:
                raise
            return await self.settle(wishes, presume=False, looks=looks - 1)
        if trouble is None:
            return [Done(changed=any(site.name in self._touched for site in wish)) for wish in wishes]
        return await self._after(trouble, wishes, presume, looks)

    async def _facts(self, sites: Mapping[str, Site], presume: bool) -> dict[str, Facts]:
        presumed = {name: _safely_presumed(site) for name, site in sites.items()} if presume else {}
        unsure = [site for name, site in sites.items() if presumed.get(name) is None]
        asked = [question for site in unsure for question in questions(site)]
        answers = await self._server.lookup(asked) if asked else {}
        return {name: presumed.get(name) or facts_of(site, answers) for name, site in sites.items()}

    async def _send(self, sites: Mapping[str, Site], steps: Mapping[str, Step]) -> _Trouble | None:
        for zone in dict.fromkeys(sites[name].zone for name in steps):
            names = tuple(name for name in steps if sites[name].zone == zone)
            fence = await self._fence.require(zone, self._epoch)
            requires = [require for name in names for require in steps[name].requires]
            edits = [edit for name in names for edit in steps[name].edits]
            update = Update(zone, (fence, *requires), tuple(edits))
            try:
                code = await self._server.update(update)
            except Unanswered:
                self._touched.update(names)
                raise
            if code != OK:
                claimed = next((name for name in names if steps[name].claims), None)
                return _Trouble(zone, code, ", ".join(names), claimed)
            self._touched.update(names)
        return None

    async def _without(
        self, foreign: Mapping[str, str], wishes: Sequence[Wish], presume: bool, looks: int
    ) -> list[Outcome]:
        reasons = [
            next((foreign[site.name] for site in wish if site.name in foreign), None) for wish in wishes
        ]
        rest = [wish for wish, reason in zip(wishes, reasons, strict=True) if reason is None]
        outcomes = iter(await self.settle(rest, presume=presume, looks=looks))
        return [next(outcomes) if reason is None else NotPossible(reason) for reason in reasons]

    async def _after(
        self, trouble: _Trouble, wishes: Sequence[Wish], presume: bool, looks: int
    ) -> list[Outcome]:
        stale = trouble.code in STALE
        if stale:
            self._fence.forget(trouble.zone)
            if presume:
                return await self.settle(wishes, presume=False, looks=looks)
        if len(wishes) > 1:
            middle = len(wishes) // 2
            first = await self.settle(wishes[:middle], presume=presume, looks=looks)
            return first + await self.settle(wishes[middle:], presume=presume, looks=looks)
        if stale and looks > 1:
            return await self.settle(wishes, presume=False, looks=looks - 1)
        return [self._verdict(trouble)]

    def _verdict(self, trouble: _Trouble) -> Outcome:
        if trouble.code in STALE:
            if trouble.claimed:  # read as absent every time, yet it exists: a type that we do not read
                return NotPossible(unowned(trouble.claimed))
            return RetryAfter(f"{trouble.names}: keeps changing under our hands")
        error = refusal(self._server.where, trouble.zone, trouble.names, trouble.code)
        return RetryAfter(str(error)) if isinstance(error, Retryable) else NotPossible(str(error))


def _safely_presumed(site: Site) -> Facts | None:
    """What is presumed of a site, if edits follow from it whose prerequisites will prove it."""
    if site.presumed is None:
        return None
    step = plan(site, site.presumed)
    return site.presumed if isinstance(step, Step) and step.edits else None


def _gathered(wishes: Sequence[Wish]) -> dict[str, Site]:
    sites: dict[str, Site] = {}
    for site in (site for wish in wishes for site in wish):
        known = sites.get(site.name)
        sites[site.name] = site if known is None else known.joined(site)
    return sites
