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
from dataclasses import dataclass
from typing import Protocol

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


Outcome = Done | RetryAfter | NotPossible


class Sink(Protocol):
    """Something we keep in step."""

    name: SinkName

    def lane(self, change: Change) -> str:
        """What serialises: changes of one lane (a host, a zone, a balancer) never overlap."""

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Show what is wanted; one outcome for each change, in order. Each binding occurs at most once."""

    async def observe(self) -> Mapping[str, Spec]:
        """All that stands there under our mark, by the sink's own natural key (see each sink)."""

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Called once before the first change: what the store says may be out there."""

    async def check(self) -> str:
        """Reach the other side without changing it; one line about what answered, or an error."""
