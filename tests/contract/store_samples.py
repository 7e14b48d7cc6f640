"""Sample nouns for the store tests."""

from __future__ import annotations

from dataclasses import replace

from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    HostName,
    InstanceId,
    Lease,
    LeaseState,
    PoolName,
    TaskId,
)
from mooring.core.specs import (
    ItemSpec,
)

HOST, APP, POOL = HostName("agent-1"), AppId("/shop/web"), PoolName("shop")


def lease(address: str = "10.0.0.2", slot: int | None = 0, generation: int = 1, **more: object) -> Lease:
    given = Lease(address, POOL, LeaseState.BOUND, APP, slot, BindingId("web.1"), HOST, generation, 1000.5)
    return replace(given, **more)  # type: ignore[arg-type]


def binding(name: str = "web.1", **more: object) -> Binding:
    given = Binding(BindingId(name), APP, InstanceId(name), 1, TaskId(f"{name}._app.1"), HOST)
    return replace(given, **more)  # type: ignore[arg-type]


def item(key: str = "/shop/web/0", status: str = "live") -> ItemSpec:
    return ItemSpec(key, APP, "web.1", "web.1._app.1", HOST, status, "10.0.0.2", 0, POOL)
