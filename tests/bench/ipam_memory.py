"""What the lease book costs: resident bytes of a loaded lease, and the time to find the last free address.

`resident_bytes_per_lease` loads the leases in a process of its own and reads how much its resident set grew,
so that everything counts which a lease brings along: its strings, its indexes, the maps of the pools.

    python -m tests.bench.ipam_memory
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from random import Random

from mooring.core.model import AppId, BindingId, HostName, Lease, LeaseState, PoolName
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.pools import Pool, Pools

ROOT = Path(__file__).resolve().parents[2]
LEASES = 100_000
APP_SIZE, HOSTS = 50, 200
NETWORK = "10.64.0.0/15"
POOL = PoolName("shop")


def resident_bytes_per_lease(leases: int = LEASES) -> float:
    """Growth of the resident set, in bytes for each lease, of a fresh process that loads so many."""
    program = "import json; from tests.bench import ipam_memory as m; print(json.dumps(m.loaded(%d)))"
    done = subprocess.run(
        [sys.executable, "-c", program % leases], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return float(json.loads(done.stdout)["bytes_per_lease"])


def last_free_of_slash12_ms(rounds: int = 5) -> float:
    """Milliseconds for a whole `plan_bind` in a /12 whose only free address is its last; median."""
    pool = Pool.parse(POOL, "10.16.0.0/12", gateway="10.16.0.1", exclude=["10.16.0.2-10.31.255.253"])
    book = LeaseBook(Pools([pool]))
    times = []
    for number in range(rounds):
        request = Request(AppId("/shop/web"), POOL, BindingId(f"web.{number}"), HostName("agent-1"))
        began = time.perf_counter()
        found = book.plan_bind(request, 1.0).lease
        times.append(time.perf_counter() - began)
        assert found.address == "10.31.255.254"
    return sorted(times)[rounds // 2] * 1000.0


def loaded(leases: int) -> dict[str, float]:
    """Load them here, and prove that the book can plan at once."""
    book = LeaseBook(Pools([_pool()]))  # everything is imported and the empty maps are there
    gc.collect()
    before = _resident()
    began = time.perf_counter()
    book = LeaseBook(Pools([_pool()]), realistic(leases))
    seconds = time.perf_counter() - began
    gc.collect()
    after = _resident()
    request = Request(AppId("/new"), POOL, BindingId("new.1"), HostName("agent-1"))
    assert book.plan_bind(request, 1.0).lease.slot == 0
    assert book.usage(POOL).leases == {LeaseState.BOUND: leases}
    return {"bytes_per_lease": (after - before) / leases, "load_s": seconds}


def realistic(leases: int) -> Iterator[Lease]:
    """Bound leases with strings of their own, as a store gives them."""
    chance = Random(7)
    first = IPv4Network(NETWORK).network_address + 10
    for number in range(leases):
        app, slot = divmod(number, APP_SIZE)
        instance = f"shop_web-{app}.instance-{uuid.UUID(int=chance.getrandbits(128))}"
        yield Lease(
            str(first + number),
            PoolName("".join(POOL)),
            LeaseState.BOUND,
            AppId(f"/shop/web-{app}"),
            slot,
            BindingId(instance),
            HostName(f"agent-{chance.randrange(HOSTS)}.example.net"),
            chance.randrange(1, 40),
            1_760_000_000.0 + number / 7,
        )


def _pool() -> Pool:
    return Pool.parse(POOL, NETWORK, gateway="10.64.0.1")


def _resident() -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(f"resident bytes for each of {LEASES} leases: {resident_bytes_per_lease():.0f}")
    print(f"last free address of a /12: {last_free_of_slash12_ms():.3f} ms")
