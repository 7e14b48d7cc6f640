"""Which items a batch of changes puts and retires. Pure.

An item's key is that of a seat, and a seat outlives its instances: the next instance may have taken it over
before the last one's departure is worked off.  An item is therefore retired only when no other binding
shows it any more.  `Roll` remembers what every binding may show; the store fills it at the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mooring.core.model import BindingId
from mooring.core.sink import Change, Done, Outcome
from mooring.core.specs import ItemSpec, Spec


@dataclass(frozen=True, slots=True)
class Entry:
    """What one change means for the inventory."""

    put: ItemSpec | None
    retire: tuple[ItemSpec, ...]

    @property
    def empty(self) -> bool:
        return self.put is None and not self.retire


class Roll:
    """Who shows which items."""

    def __init__(self) -> None:
        self._shown: dict[BindingId, tuple[ItemSpec, ...]] = {}

    def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Remember what the store says may be out there."""
        for binding, specs in shown.items():
            self._remember(binding, specs)

    def entries(self, changes: Sequence[Change]) -> list[Entry]:
        """One entry for each change, in order; remembers that all of it may be out there from now on."""
        batch = {change.binding for change in changes}
        others = (items for binding, items in self._shown.items() if binding not in batch)
        held = {item.key for items in others for item in items}
        held |= {item.key for item in _items(change.wanted for change in changes)}
        for change in changes:
            self._remember(change.binding, (change.wanted, *change.was))
        return [_entry(change, held) for change in changes]

    def settled(self, changes: Sequence[Change], outcomes: Sequence[Outcome]) -> None:
        """Of the changes that succeeded only what was wanted is out there now."""
        for change, outcome in zip(changes, outcomes, strict=True):
            if isinstance(outcome, Done):
                self._remember(change.binding, (change.wanted,))

    def _remember(self, binding: BindingId, specs: Iterable[Spec | None]) -> None:
        items = _items(specs)
        if items:
            self._shown[binding] = items
        else:
            self._shown.pop(binding, None)


def _entry(change: Change, held: set[str]) -> Entry:
    wanted = change.wanted if isinstance(change.wanted, ItemSpec) else None
    left = {item.key: item for item in _items(change.was) if item.key not in held}
    return Entry(wanted, tuple(left.values()))


def _items(specs: Iterable[Spec | None]) -> tuple[ItemSpec, ...]:
    return tuple(dict.fromkeys(spec for spec in specs if isinstance(spec, ItemSpec)))
