"""What the daemon holds: every binding and every lease, in memory, written through.

Planning is synchronous and pure, committing takes a moment.  Between the two nobody else may plan on
the same facts, so every change goes through `changing()`: a lock around plan and commit.  Memory
changes only after the store has taken the transaction, so a refused write leaves no trace anywhere.

Dependents are told here as well: whenever the binding of an app changes in a way its dependents could
see, `on_change` is called with both versions after the commit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from mooring.core.model import AppId, Binding, BindingId, SinkName
from mooring.core.store import Contents, DropBinding, PutBinding, PutFlag, Store, Write
from mooring.ipam.book import LeaseBook

ChangeListener = Callable[[Binding | None, Binding | None], None]


class Records:
    """Bindings and leases, and the only way to change them."""

    def __init__(self, store: Store, book: LeaseBook, contents: Contents) -> None:
        self.book = book
        self.store = store
        self.flags: dict[str, str] = dict(contents.flags)
        self.on_change: ChangeListener = lambda before, after: None
        self._lock = asyncio.Lock()
        self._bindings: dict[BindingId, Binding] = {}
        self._by_app: dict[AppId, set[BindingId]] = {}
        self._unsettled: Counter[SinkName] = Counter()
        for binding in contents.bindings:
            self._put(binding)

    def get(self, key: BindingId) -> Binding | None:
        return self._bindings.get(key)

    def all(self) -> Sequence[Binding]:
        return tuple(self._bindings.values())

    def of_app(self, app: AppId) -> Sequence[Binding]:
        return tuple(self._bindings[key] for key in sorted(self._by_app.get(app, ())))

    def unsettled(self) -> Mapping[SinkName, int]:
        """How many bindings each sink does not show as they are wanted; zeros may be missing."""
        return self._unsettled

    def spare_id(self, name: str) -> BindingId:
        """`<name>~<n>`, which no record has: for what an instance has left behind."""
        number = 1
        while BindingId(f"{name}~{number}") in self._bindings:
            number += 1
        return BindingId(f"{name}~{number}")

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Hold this while planning on leases and committing the plan."""
        async with self._lock:
            yield

    async def commit(self, writes: Iterable[Write]) -> None:
        """One transaction; memory follows once it is durable. Raises what `Store.commit` raises."""
        batch = list(writes)
        if not batch:
            return
        # A worker may be cancelled while the disk works; memory must follow what the store took all the same.
        await asyncio.shield(self._commit(batch))

    async def _commit(self, batch: Sequence[Write]) -> None:
        await self.store.commit(batch)
        self.book.accept(batch)
        for write in batch:
            self._follow(write)

    async def save(self, binding: Binding) -> Binding:
        """Store a binding alone, if it differs from what is held."""
        if self._bindings.get(binding.id) != binding:
            await self.commit([PutBinding(binding)])
        return binding

    def _follow(self, write: Write) -> None:
        match write:
            case PutBinding(binding):
                before = self._bindings.get(binding.id)
                self._put(binding)
                self.on_change(before, binding)
            case DropBinding(key):
                before = self._bindings.pop(key, None)
                if before is not None:
                    self._by_app[before.app].discard(key)
                    self._unsettled.subtract(_unsettled_at(before))
                    self.on_change(before, None)
            case PutFlag(name, None):
                self.flags.pop(name, None)
            case PutFlag(name, str(value)):
                self.flags[name] = value

    def _put(self, binding: Binding) -> None:
        before = self._bindings.get(binding.id)
        if before is not None:
            self._unsettled.subtract(_unsettled_at(before))
        self._unsettled.update(_unsettled_at(binding))
        self._bindings[binding.id] = binding
        self._by_app.setdefault(binding.app, set()).add(binding.id)


def _unsettled_at(binding: Binding) -> list[SinkName]:
    return [name for name, state in binding.sinks.items() if not state.settled]
