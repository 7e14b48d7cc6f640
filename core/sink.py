"""The seam between what we want and the systems that show it.

A sink is anything we keep in step: switch ports, names, balancers, inventories, files.  It gets
`Change`s and answers with one `Outcome` each, in order.  It must be idempotent, because after a crash
the same change comes again; it must undo everything in `was` that `wanted` does not contain, because
any of that may be out there; and it must touch nothing that does not carry our mark.

One change's failure never spoils another's: a sink that meets an error for a part of a batch returns
`RetryAfter` or `NotPossible` for that part.  It may raise `Retryable` or `Refused` when the whole batch
failed; the batcher turns that into an outcome for each change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mooring.core.errors import Refused
from mooring.core.model import BindingId, Epoch, SinkName
from mooring.core.specs import Spec


@dataclass(frozen=True, slots=True)
class Change:
    """Make the sink show `wanted` for this binding in place of everything in `was`."""

    binding: BindingId
    wanted: Spec | None  # None: show nothing
    was: tuple[Spec, ...]  # all that may stand there now: what was applied, and what was tried
    generation: int
    epoch: Epoch
    certain: Spec | None = None  # the one of `was`, if any, that is known to stand there


@dataclass(frozen=True, slots=True)
class Done:
    """The sink shows `wanted`; it was read back where the sink can be read."""

    changed: bool = True


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Not now. `after_s` None leaves the delay to the queue's back-off."""

    reason: str
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class NotPossible:
    """Not until a person changes something."""

    reason: str


@dataclass(frozen=True, slots=True)
class Conflict(NotPossible):
    """Somebody else answers on the address that was to be shown; nothing was shown."""

    address: str = ""
    answered_by: tuple[str, ...] = ()  # MACs, in order
    answered_on: tuple[str, ...] = ()  # which of a pair's two addresses, where the host tells


Outcome = Done | RetryAfter | NotPossible  # a `Conflict` is a `NotPossible`


@dataclass(frozen=True, slots=True)
class Observation:
    """What really stands at a sink, as far as it could be read.

    `shown` is told in the same words as what was applied, as far as the other side can tell them, and has
    one entry for each separate thing there: a balancer member, an address record, a pointer.
    """

    shown: Mapping[str, Spec] = field(default_factory=dict)  # under our mark, by the sink's natural key
    foreign: tuple[str, ...] = ()  # one line for each thing in our place that does not carry our mark
    faults: Mapping[str, str] = field(default_factory=dict)  # key in `shown`: what is wrong with it besides
    places: frozenset[str] = frozenset()  # hosts or zones that were read, where a sink has several
    unseen: Mapping[str, str] = field(default_factory=dict)  # those that could not be read, and why
    dead: frozenset[str] = frozenset()  # keys in `shown` behind which nothing lives any more


class Unreadable(Refused):
    """The other side cannot be read at all, now or later; that is no fault of anybody's."""


class Sink(Protocol):
    """Something we keep in step."""

    name: SinkName

    def lane(self, change: Change) -> str:
        """What serialises: changes of one lane (a host, a zone, a balancer) never overlap."""

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Show what is wanted; one outcome for each change, in order. Each binding occurs at most once."""

    async def observe(self) -> Observation:
        """All that stands there (see each sink for its keys).

        Raises `Retryable` or `Refused` when it cannot be read now, `Unreadable` when it never can.
        """

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Called once before the first change: what the store says may be out there."""

    async def check(self) -> str:
        """Reach the other side without changing it; one line about what answered, or an error."""
