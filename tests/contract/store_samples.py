"""Sample nouns for the store tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    Lease,
    LeaseState,
    PoolName,
    PoolSpec,
    TaskId,
)
from mooring.core.specs import ItemSpec
from mooring.core.store import NO_EPOCH, Contents

HOST, APP, POOL = HostName("agent-1"), AppId("/shop/web"), PoolName("shop")


def lease(address: str = "10.0.0.2", slot: int | None = 0, generation: int = 1, **more: object) -> Lease:
    given = Lease(address, POOL, LeaseState.BOUND, APP, slot, BindingId("web.1"), HOST, generation, 1000.5)
    return msgspec.structs.replace(given, **more)


def binding(name: str = "web.1", **more: object) -> Binding:
    given = Binding(BindingId(name), APP, InstanceId(name), 1, TaskId(f"{name}._app.1"), HOST)
    return replace(given, **more)  # type: ignore[arg-type]


def item(key: str = "/shop/web/0", status: str = "live") -> ItemSpec:
    return ItemSpec(key, APP, "web.1", "web.1._app.1", HOST, status, "10.0.0.2", 0, POOL)


def contents(
    bindings: Sequence[Binding] = (),
    leases: Sequence[Lease] = (),
    flags: Mapping[str, str] | None = None,
    epoch: Epoch = NO_EPOCH,
    *,
    pools: Sequence[PoolSpec] = (),
    fresh: bool = False,
    created: bool = False,
) -> Contents:
    """What a store should hold, in the order in which it tells it."""
    by_address = sorted(leases, key=lambda lease: lease.address)
    return Contents(list(bindings), by_address, flags or {}, epoch, fresh, list(pools), created)
