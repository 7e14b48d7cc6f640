"""From a running container to its first answer on the network: `python -m tests.bench.bench_network [N [M]]`.

A lab of eight hosts, each with its own namespace, sshd and Open vSwitch, and the real daemon, which reaches
them over real ssh.  Nothing but the network is configured: no names, no balancers, no inventory.

Single.  An app of one instance with an address of its own is deployed, N (50) times.  The clock starts when
our own reader sees its TASK_RUNNING on Marathon's stream, and stops when its address first answers a ping
from a container on another host (asked every 20 ms; oftener, and the switches have more to do with the
questions than with the containers).

Burst.  The daemon is paused, one app of M (200) instances is deployed and runs, and the daemon is resumed.
The clock starts when the daemon takes the command and stops when the last port is confirmed by its host;
after that every address has to answer a ping.  The CPU time is that of the daemon, its Ansible server, and
all their children.

Plain.  The same containers are wired in the way that everybody writes first: for each event one
`ansible-runner` play of pipework's steps (`plain_pipework.yml`), one after the other, over the same ssh.

Prints a table and writes `build/bench/network.json`; `docs/benchmarks.md` explains the keys.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ansible_runner

from mooring.handlers.warm.runner import SERVER
from mooring.lab import background, lifecycle, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import BRIDGE, VLANS, LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator, app
from tests.bench.bench_e2e import Witness, _p99, applied_times
from tests.bench.pinging import Pinger

REPORT = Path(__file__).parents[2] / "build" / "bench" / "network.json"
PLAIN = Path(__file__).with_name("plain_pipework.yml")
HOSTS = 8
DEADLINE_S = 600.0
POOL = VLANS[0]
_OWN = re.compile(r"(?ms)^\[(dns|haproxy|nginx|webhook)\].*?(?=^\[)")
_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Bench:
    """The lab with its daemon, somebody who listens to Marathon, and somebody who pings."""

    plan: LabPlan
    witness: Witness
    handle: LabHandle
    operator: Operator
    pinger: Pinger


def bare(
    name: str, instances: int, labels: Mapping[str, str] | None = None, **changes: Any
) -> dict[str, Any]:
    """An app with an address, and nothing else to do."""
    made = app(name, instances, 8080, **changes)
    # Without checks of Marathon's the daemon would probe; these are seldom enough not to be in the way.
    checks = [{**check, "intervalSeconds": 300} for check in made["healthChecks"]]
    return {**made, "healthChecks": checks, "labels": {"MOORING_POOL": POOL.pool, **(labels or {})}}


def pinned(name: str, address: str, **changes: Any) -> dict[str, Any]:
    return bare(name, 1, {"MOORING_IP_POLICY": "pinned", "MOORING_IPS": address}, **changes)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    plan = LabPlan("netbench", Path("/var/lib/mooring-lab/netbench"), 31000, HOSTS)
    lifecycle.down(plan)
    witness = Witness()
    try:
        await lifecycle.up(plan)
        _network_only(plan)
        await background.start(plan)
        listener = asyncio.create_task(witness.watch(plan.marathon_url))
        handle, operator = LabHandle(plan), Operator(plan)
        pinger = await _prober(plan, handle, operator)
        await eventually(lambda: _installed(plan), DEADLINE_S)
        yield Bench(plan, witness, handle, operator, pinger)
        pinger.close()
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
        await background.stop(plan)
    finally:
        lifecycle.down(plan)


async def _installed(plan: LabPlan) -> tuple[None, str]:
    """Whether every host has got the program, which each gets once."""
    told = supervise.log_file(plan, background.NAME).read_text().count('"program installed"')
    return None, "" if told >= HOSTS else f"{told} of {HOSTS} hosts have the program"


def _network_only(plan: LabPlan) -> None:
    """Take the edges out of the daemon's configuration, and let it tell how long each flight took.

    As many workers as there are instances in the burst: it is the network that is measured.
    """
    config = _OWN.sub("", plan.daemon_config.read_text())
    plan.daemon_config.write_text(f'workers = 256\n{config}\n[log]\nlevel = "debug"\n')


async def _prober(plan: LabPlan, handle: LabHandle, operator: Operator) -> Pinger:
    """A container of ours on the first host, from which everything is asked."""
    await operator.deploy(
        pinned("/bench/prober", "10.64.3.250", constraints=[["hostname", "LIKE", "agent-1"]])
    )
    pids = await eventually(lambda: _attached(handle, 1), DEADLINE_S)
    return Pinger(next(iter(pids.values())), "eth0", every_s=0.02)


async def _attached(handle: LabHandle, count: int) -> tuple[dict[str, int], str]:
    pids = await handle.running_pids()
    ready = {task: pid for task, pid in pids.items() if await handle.addresses_of(pid)}
    return ready, "" if len(ready) >= count else f"{len(ready)} of {count} have an address"


# -- single


async def singles(bench: Bench, count: int) -> dict[str, float]:
    """The same app again and again, each with an address that nobody had before."""
    names = [f"/bench/single-{number}" for number in range(count)]
    answered: dict[str, float] = {}
    for number, name in enumerate(names):
        address = str(POOL.network[512 + number])
        bench.pinger.ask([address])
        elsewhere = [["hostname", "UNLIKE", "agent-1"]]
        await bench.operator.deploy(pinned(name, address, constraints=elsewhere))
        await eventually(lambda at=address: _heard(bench.pinger, [at]), DEADLINE_S)
        answered[name] = bench.pinger.answered[address]
        await eventually(lambda at=name: _confirmed(bench, at, 1), DEADLINE_S)
        await bench.operator.delete(name)
        await eventually(lambda: _gone(bench, len(["the prober"])), DEADLINE_S)
    running = {_app_of(instance): at for instance, at in bench.witness.running.items()}
    totals = [answered[name] - running[name] for name in names]
    applied = {
        _app_of(instance): times["network"]
        for instance, times in applied_times(bench.plan).items()
        if "network" in times
    }
    confirmed = [applied[name] - running[name] for name in names]
    flights = [flight["took_s"] for flight in _flights(bench.plan)]
    return {
        "single_p50_s": statistics.median(totals),
        "single_p99_s": _p99(totals),
        "single_confirmed_p50_s": statistics.median(confirmed),
        "single_flight_p50_s": statistics.median(flights),
    }


async def _gone(bench: Bench, left: int) -> tuple[None, str]:
    """Whether nothing of the last one is under way any more, which would be in the way of the next."""
    known = len((await background.status(bench.plan))["instances"])
    return None, f"{known} instances are known" if known > left else ""


async def _heard(pinger: Pinger, addresses: Sequence[str]) -> tuple[None, str]:
    silent = [address for address in addresses if address not in pinger.answered]
    return None, f"{len(silent)} do not answer a ping" if silent else ""


def _app_of(instance: str) -> str:
    """`bench_single-3.instance-...` is of `/bench/single-3`."""
    return "/" + instance.partition(".")[0].replace("_", "/")


def _flights(plan: LabPlan) -> list[dict[str, Any]]:
    lines = supervise.log_file(plan, background.NAME).read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry.get("event") == "flight"]


# -- burst


async def burst(bench: Bench, count: int) -> dict[str, float]:
    """Everything waits for the daemon, and it is let go."""
    name = "/bench/burst"
    await _mooring(bench.plan, "pause")
    await bench.operator.deploy(bare(name, count))
    await eventually(lambda: _running(bench, name, count), DEADLINE_S)
    flights_before, before = len(_flights(bench.plan)), cpu_s(bench.plan)
    await _mooring(bench.plan, "resume")
    began = _resumed_at(bench.plan)
    confirmed = await eventually(lambda: _confirmed(bench, name, count), DEADLINE_S)
    used = cpu_s(bench.plan) - before
    memory = memory_mb(bench.plan)
    addresses = [lease["address"] for lease in await background.leases(bench.plan) if lease["app"] == name]
    bench.pinger.ask(addresses)
    await eventually(lambda: _heard(bench.pinger, addresses), DEADLINE_S)
    took = [flight["took_s"] for flight in _flights(bench.plan)[flights_before:]]
    return {
        f"burst_{count}_s": max(confirmed) - began,
        "burst_first_s": min(confirmed) - began,
        "burst_flights": float(len(took)),
        "burst_flight_p50_s": statistics.median(took),
        "burst_longest_flight_s": max(took),
        "ours_per_container_s": (max(confirmed) - began) / count,
        "controller_cpu_ms_per_container": used / count * 1000,
        **memory,
    }


def _resumed_at(plan: LabPlan) -> float:
    """When the daemon took the command, by its own log: the command itself starts a Python first."""
    lines = supervise.log_file(plan, background.NAME).read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    told = [entry["timestamp"] for entry in entries if entry.get("event") == "resumed"]
    return datetime.fromisoformat(told[-1]).timestamp()


async def _mooring(plan: LabPlan, *words: str) -> None:
    code, said = await background.command(plan, *words)
    assert code == 0, said


async def _running(bench: Bench, name: str, count: int) -> tuple[None, str]:
    found = [one for one in bench.witness.running if _app_of(one) == name]
    return None, "" if len(found) >= count else f"{len(found)} of {count} run"


async def _confirmed(bench: Bench, name: str, count: int) -> tuple[list[float], str]:
    times = applied_times(bench.plan)
    found = [seen["network"] for one, seen in times.items() if _app_of(one) == name and "network" in seen]
    return found, "" if len(found) >= count else f"{len(found)} of {count} are attached"


def cpu_s(plan: LabPlan) -> float:
    """CPU seconds of the daemon, of its living descendants, and of those that they have waited for."""
    family = [supervise.pid_of(plan, background.NAME)]
    children: dict[int, list[int]] = defaultdict(list)
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
                children[int(stats[int(entry.name)][1])].append(int(entry.name))
    for pid in family:
        family += children[pid or 0]
    return sum(sum(map(int, stats[pid][11:15])) for pid in family if pid in stats) / _TICKS


def memory_mb(plan: LabPlan) -> dict[str, float]:
    """What the Ansible server and a play that stands by keep; shared pages are counted by their share."""
    sizes = sorted(_pss_kb(pid) for pid in _pids() if SERVER in _words(pid) and plan.name in _words(pid))
    return {"server_pss_mb": max(sizes) / 1024, "standing_processes": float(len(sizes) - 1),
            "standing_pss_mb": statistics.median(sizes) / 1024}  # fmt: skip


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _words(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _pss_kb(pid: int) -> int:
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


# -- plain


async def plain(bench: Bench, count: int) -> dict[str, float]:
    """The plain way, for containers that the daemon knows nothing of."""
    code, said = await background.command(bench.plan, "pause")
    assert code == 0, said
    name = "/bench/plain"
    await bench.operator.deploy(bare(name, count))
    await eventually(lambda: _running(bench, name, count), DEADLINE_S)
    tasks = await bench.operator.running(name)
    took = []
    for number, task in enumerate(tasks):
        container = await bench.handle.container(str(task.id))
        address = str(POOL.network[700 + number])
        began = time.monotonic()
        await asyncio.to_thread(_play, bench.plan, str(task.host), container.id, address)
        bench.pinger.ask([address])
        await eventually(lambda at=address: _heard(bench.pinger, [at]), DEADLINE_S)
        took.append(time.monotonic() - began)
    return {"plain_per_container_s": statistics.median(took)}


def _play(plan: LabPlan, host: str, container: str, address: str) -> None:
    directory = tempfile.mkdtemp(prefix="plain-")
    try:
        done = ansible_runner.run(
            private_data_dir=directory,
            playbook=str(PLAIN),
            inventory=str(plan.inventory),
            limit=host,
            extravars={"container": container, "address": address, "prefix": POOL.network.prefixlen,
                       "gateway": str(POOL.gateway), "vlan": POOL.tag, "bridge": BRIDGE},
            envvars={"ANSIBLE_PIPELINING": "True", "ANSIBLE_HOME": f"{directory}/home", "PATH": _PATH},
            quiet=True,
            cancel_callback=lambda: False,
        )  # fmt: skip
        assert done.rc == 0, done.stdout.read()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def measure(single_count: int, burst_count: int) -> dict[str, float]:
    async with bench() as made:
        numbers = await singles(made, single_count)
        numbers |= await burst(made, burst_count)
        numbers |= await plain(made, 10)
    ratio = numbers["plain_per_container_s"] / numbers["ours_per_container_s"]
    return numbers | {"plain_to_ours": ratio}


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]]
    numbers = asyncio.run(measure(*(counts + [50, 200][len(counts) :])))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({key: round(value, 4) for key, value in numbers.items()}, indent=1) + "\n")
    for key, value in numbers.items():
        print(f"{key:34} {value:10.3f}")


if __name__ == "__main__":
    main()
