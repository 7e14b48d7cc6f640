"""What has to be said so that a name shows what it should. Pure.

A `Site` is what a batch of changes asks of one name; `Facts` is what stands there.  Together they give the
edits, and with them the prerequisites that pin down everything the edits were computed from: if anything
there changes meanwhile, the server refuses and we look again.  An accepted update is therefore its own
confirmation, since nothing that could make it differ from the plan was left open.

    our mark   values there        keep       result
    yes        alias               any        foreign: an alias hides every other record
    yes        any                 some       values become keep (alone) or values - drop + keep (shared)
    yes        any                 none       values - drop; the mark leaves with the last value
    no         none                some       claim: the name must be absent, then mark and values together
    no         any, or other mark  some       foreign
    no         none of drop        none       nothing to do, nothing of ours is there
    no         some of drop        none       foreign: what we set stands there and the mark is gone
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mooring.dns.ownership import Mark, marker_of, parse_mark
from mooring.dns.records import (
    NOTHING,
    Add,
    Edit,
    NameAbsent,
    Question,
    Remove,
    Require,
    RRset,
    SetAbsent,
    SetEquals,
)

Pair = tuple[str, str]  # record type, value


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands at one name, and the texts beside it."""

    marks: frozenset[str] = frozenset()
    sets: Mapping[str, RRset] = field(default_factory=dict)  # by type


@dataclass(frozen=True, slots=True)
class Site:
    """What is asked of one name."""

    zone: str
    name: str
    mark: Mark
    types: tuple[str, ...]  # the record types that we set at such a name
    alone: bool  # whether one binding owns the name, so that a new value replaces all others
    ttl: int = 0
    keep: frozenset[Pair] = frozenset()
    drop: frozenset[Pair] = frozenset()
    presumed: Facts | None = None  # what probably stands there; None: better read it

    def joined(self, other: Site) -> Site:
        """What both ask of the same name; wanted by one outweighs left by the other."""
        keep = self.keep | other.keep
        ttls = [site.ttl for site in (self, other) if site.keep]
        return replace(
            self,
            keep=keep,
            drop=(self.drop | other.drop) - keep,
            ttl=min(ttls, default=0),
            presumed=self.presumed if self.presumed == other.presumed else None,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """What to send for one site; without edits there is nothing to do."""

    requires: tuple[Require, ...] = ()
    edits: tuple[Edit, ...] = ()
    claims: bool = False


@dataclass(frozen=True, slots=True)
class Foreign:
    """The name is in another hand; the reason names it."""

    reason: str


def questions(site: Site) -> list[Question]:
    """What must be asked to know the facts of a site."""
    return [(marker_of(site.name), "TXT"), *((site.name, type_) for type_ in site.types)]


def facts_of(site: Site, answers: Mapping[Question, RRset]) -> Facts:
    """The facts of a site among the answers to its questions."""
    sets = {type_: answers.get((site.name, type_), NOTHING) for type_ in (*site.types, "CNAME")}
    marks = answers.get((marker_of(site.name), "TXT"), NOTHING).values
    return Facts(marks, {type_: rrset for type_, rrset in sets.items() if rrset.values})


def plan(site: Site, facts: Facts) -> Step | Foreign:
    """See the table above."""
    there = frozenset((type_, value) for type_, rrset in facts.sets.items() for value in rrset.values)
    if facts.marks != {str(site.mark)}:
        return _unmarked(site, facts, there)
    if "CNAME" in facts.sets:
        return Foreign(f"name {site.name} was made an alias by somebody else; remove the alias")
    final = (site.keep if site.alone and site.keep else there - site.drop) | site.keep
    edits = _edits(site, facts, there, final)
    return Step(_as_it_is(site, facts), edits) if edits else Step()


def _unmarked(site: Site, facts: Facts, there: frozenset[Pair]) -> Step | Foreign:
    if site.keep:
        if facts.marks or there:
            return Foreign(_whose(site, facts))
        return _claim(site)
    left = sorted(value for _, value in site.drop & there)
    if left:
        return Foreign(
            f"name {site.name} still shows {', '.join(left)}, but its ownership record "
            f"{marker_of(site.name)} is not ours any more; remove the name by hand"
        )
    return Step()


def _claim(site: Site) -> Step:
    marker = marker_of(site.name)
    adds = _adds(site, site.keep)
    return Step(
        (NameAbsent(site.name), NameAbsent(marker)),
        (Add(marker, "TXT", str(site.mark), site.ttl), *adds),
        claims=True,
    )


def _as_it_is(site: Site, facts: Facts) -> tuple[Require, ...]:
    """Prerequisites that hold only while the facts do."""
    pinned: list[Require] = [SetEquals(marker_of(site.name), "TXT", facts.marks)]
    if not facts.sets:
        return (*pinned, NameAbsent(site.name))
    for type_ in site.types:
        found = facts.sets.get(type_)
        pinned.append(SetEquals(site.name, type_, found.values) if found else SetAbsent(site.name, type_))
    return tuple(pinned)


def _edits(site: Site, facts: Facts, there: frozenset[Pair], final: frozenset[Pair]) -> tuple[Edit, ...]:
    # A set has one TTL: adding a value it already has, with another TTL, retimes it.
    mistimed = {pair for pair in site.keep & there if facts.sets[pair[0]].ttl != site.ttl}
    edits: list[Edit] = [Remove(site.name, type_, value) for type_, value in sorted(there - final)]
    edits += _adds(site, (final - there) | mistimed)
    if not final:
        edits.append(Remove(marker_of(site.name), "TXT", str(site.mark)))
    return tuple(edits)


def _adds(site: Site, pairs: Iterable[Pair]) -> Sequence[Add]:
    return [Add(site.name, type_, value, site.ttl) for type_, value in sorted(pairs)]


def _whose(site: Site, facts: Facts) -> str:
    for mark in map(parse_mark, facts.marks):
        if mark is not None and mark.owner == site.mark.owner:
            return f"name {site.name} is already in use as a {mark.kind} name; rename one of the two apps"
        if mark is not None:
            return f"name {site.name} belongs to another Mooring, owner {mark.owner!r}"
    return unowned(site.name)


def unowned(name: str) -> str:
    """Why a name that exists without any mark is left alone."""
    return (
        f"name {name} exists and does not carry our ownership record {marker_of(name)}; "
        "remove it or choose another name"
    )
