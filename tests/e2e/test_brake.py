"""Wrong listings hold everything; real ends pass at once.

What Marathon's listing lacks may have ended, or the listing is wrong: empty after a failover, half read, cut
off, of another cluster.  Each wrong answer is given again and again, by snapshots and by listings of single
apps, for longer than an absence has to be confirmed.  That nothing was touched meanwhile is the word of
containers, switches, BIND, balancers and CMDB: a port that went and came back has another number, a zone
another serial, the CMDB a longer history.  What shows nowhere outside, the seats of an app that is scaled to
zero, is asked of the daemon's leases.
"""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from mooring.lab import background
from mooring.lab.handle import LabHandle
from mooring.lab.plan import REVERSE_ZONES, ZONE, LabPlan
from mooring.lab.proofs import Proof, eventually, server_states
from mooring.lab.remains import marked_addresses, nginx_addresses, nothing_left, zone_records
from mooring.lab.sample import Operator, app
from tests.e2e.evidence import (
    DEADLINE_S,
    agreed,
    beside,
    container_addresses,
    log_lines,
    log_size,
    metric,
    status,
)

API, DB, WEB, JOBS = "/shop/api", "/shop/db", "/shop/web", "/yard/jobs"
FLEET = {API: 4, DB: 3, WEB: 5, JOBS: 3}  # a half listing lacks DB and JOBS; JOBS alone would not be braked
APP_NAMES = {f"{name}.{ZONE}." for name in ("api.shop", "db.shop", "web.shop", "jobs.yard")}
APP_MARKS = {f"_mooring.{name}" for name in APP_NAMES}
RESTING = ("/yard/ready", "/yard/spare")  # scaled to zero; a half listing lacks the second
BACKOFF_S = 8.0  # of JOBS: time enough to let go what ended, before it comes again
REPEATS = 4  # snapshots that say the same
LOOK_EVERY_S = 0.1
REGISTERED = {"eventType": "scheduler_reregistered_event", "master": {"hostname": "lab"}}
POSTED = {
    "eventType": "api_post_event",
    "clientIp": "",
    "uri": f"/v2/apps{JOBS}",
    "appDefinition": {"id": JOBS},
}

Wrong = Mapping[str, Any]


async def deployed(handle: LabHandle, operator: Operator, fleet: Mapping[str, int] = FLEET) -> list[Proof]:
    for name, instances in fleet.items():
        changes = {"backoffSeconds": BACKOFF_S} if name == JOBS else {}
        await operator.deploy(app(name, instances, 8080, **changes))
    return await agreed(handle, operator, list(fleet.items()))


async def resting(handle: LabHandle, operator: Operator) -> set[str]:
    """Apps that ran and are scaled to zero now; the addresses of their seats."""
    for name in RESTING:
        await operator.deploy(app(name, 1, 8080))
    proofs = await agreed(handle, operator, [*FLEET.items(), *((name, 1) for name in RESTING)])
    for name in RESTING:
        await operator.scale(name, 0)
    left = of(proofs, *RESTING)
    await eventually(lambda: gone(handle, left), DEADLINE_S)
    return {proof.address for proof in left}


# -- what must not change


async def traces(handle: LabHandle) -> dict[str, Any]:
    """Everything that the end of an instance or app would change anywhere."""
    plan = handle.plan
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{plan.cmdb_port}/history") as history,
    ):
        changes = await history.json()
    return {
        "containers": await container_addresses(handle),
        "ports": {
            agent.hostname: sorted(await handle.ovs_ports(agent.hostname), key=lambda port: port["name"])
            for agent in plan.agents
        },
        "zones": {zone: await handle.transfer(zone) for zone in (ZONE, *REVERSE_ZONES)},
        "servers": await server_states(handle),
        "haproxy.cfg": (plan.haproxy_dir / "haproxy.cfg").read_text(),
        "nginx": os.readlink(plan.nginx_dir / "current"),
        "items": await handle.cmdb_items(),
        "changes of items": len(changes),
        "leases": sorted(
            (lease for lease in await background.leases(plan) if lease["state"] != "cooling"),
            key=lambda lease: str(lease["address"]),
        ),
    }


@asynccontextmanager
async def untouched(handle: LabHandle) -> AsyncIterator[None]:
    """Nothing changes anywhere meanwhile, and no server leaves HAProxy's rotation even for a moment."""
    before = await traces(handle)
    seen: list[dict[str, str]] = []

    async def look() -> None:
        while True:
            seen.append(await server_states(handle))
            await asyncio.sleep(LOOK_EVERY_S)

    async with beside(look()):
        yield
    assert await traces(handle) == before
    assert len(seen) > REPEATS
    assert [states for states in seen if states != before["servers"]] == []


# -- how Marathon is made to lie


@asynccontextmanager
async def listing(operator: Operator, wrong: Wrong) -> AsyncIterator[None]:
    """Meanwhile listings are wrong, as a failover's new leader gives them."""
    try:
        await operator.send("POST", "/lab/failover", {"seconds": 0.5, "answer": 302, "listing": wrong})
        yield
    finally:
        await operator.send("DELETE", "/lab/listing")


async def repeated(
    plan: LabPlan, operator: Operator, result: str, asked_by: Sequence[Wrong] = (REGISTERED, POSTED)
) -> None:
    """Ask for snapshots, and for JOBS alone, until absence would be confirmed and `REPEATS` have ended so.

    A snapshot under way when that time is over began before it, so the one after it is awaited.
    """
    loop = asyncio.get_running_loop()
    lasting_s = tomllib.loads(plan.daemon_config.read_text())["marathon"]["absence_confirm_s"]
    before = await metric(plan, "mooring_snapshots_total", result=result)
    enough, first = REPEATS, 0.0

    async def ask() -> tuple[None, str]:
        nonlocal enough, first
        for event in asked_by:
            await operator.send("POST", "/lab/events", event)
        ended = int(await metric(plan, "mooring_snapshots_total", result=result) - before)
        if ended and not first:
            first = loop.time()
        if not first or loop.time() - first < lasting_s:
            enough = max(REPEATS, ended + 2)
        return None, "" if ended >= enough else f"{ended} of {enough} snapshots have {result}"

    await eventually(ask, DEADLINE_S)


async def right_again(plan: LabPlan, operator: Operator) -> None:
    """The listing is right: the next snapshot takes every complaint back."""

    async def ask() -> tuple[None, str]:
        await operator.send("POST", "/lab/events", REGISTERED)
        found = await status(plan)
        return None, found.overview.brake or "; ".join(found.readiness)

    await eventually(ask, DEADLINE_S)
    assert await metric(plan, "mooring_brake_engaged") == 0
    assert await readyz(plan) == (200, "ready\n")


# -- what the daemon says


async def readyz(plan: LabPlan) -> tuple[int, str]:
    url = f"http://127.0.0.1:{plan.portal_port}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def tells_why_it_holds(plan: LabPlan, counts: str, logged: int) -> None:
    reason = (await status(plan)).overview.brake
    assert reason is not None
    assert counts in reason
    assert await metric(plan, "mooring_brake_engaged") == 1
    code, page = await readyz(plan)
    assert (code, f"brake: {reason}" in page) == (503, True), page
    code, output = await background.command(plan, "status")
    assert (code, f"brake: {reason}" in output) == (1, True), output
    assert await background.command(plan, "brake", "show") == (1, f"held: {reason}\n")
    told = [line for line in log_lines(plan, logged) if reason in map(str, line.values())]
    assert [line["level"] for line in told] == ["warning"], "once, however often the listing repeats it"


async def tells_why_it_does_not_believe(plan: LabPlan, words: str, logged: int) -> None:
    assert await metric(plan, "mooring_brake_engaged") == 0
    code, page = await readyz(plan)
    assert (code, "snapshot: " in page, words in page) == (503, True, True), page
    code, output = await background.command(plan, "status")
    assert (code, "not ready: snapshot: " in output, words in output) == (1, True, True), output
    assert await background.command(plan, "brake", "show") == (0, "the brake is off\n")
    told = [line for line in log_lines(plan, logged) if line["event"] == "no snapshot"]
    assert any(words in line["reason"] for line in told)


# -- wrong listings


async def test_wrong_listings_touch_nothing_and_an_unheard_end_waits_for_an_operator(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    proofs = await deployed(handle, operator)
    seats = await resting(handle, operator)
    await held(handle, operator, {"kind": "empty"}, "15")
    await held(handle, operator, {"kind": "half"}, "6 of 15 instances and 3 apps")
    await not_believed(handle, operator, {"kind": "truncated"}, "failed", "/v2/apps")
    await not_believed(handle, operator, {"kind": "other", "empty": True}, "discarded", "-other")
    await seat_is_kept_for_what_ends_meanwhile(handle, operator, proofs)
    await held_until_released(handle, operator, {proof.address for proof in proofs}, seats)


async def held(handle: LabHandle, operator: Operator, wrong: Wrong, counts: str) -> None:
    """The listing lacks instances: they stay, the reason is told, and all is well once it is right."""
    plan = handle.plan
    async with untouched(handle):
        logged = log_size(plan)
        async with listing(operator, wrong):
            await repeated(plan, operator, "merged")
            await tells_why_it_holds(plan, counts, logged)
        await right_again(plan, operator)


async def not_believed(handle: LabHandle, operator: Operator, wrong: Wrong, result: str, words: str) -> None:
    """The answer is no listing of ours: nothing is learnt from it, and the reason is told."""
    plan = handle.plan
    async with untouched(handle):
        logged = log_size(plan)
        async with listing(operator, wrong):
            await repeated(plan, operator, result)
            await tells_why_it_does_not_believe(plan, words, logged)
        await right_again(plan, operator)


async def seat_is_kept_for_what_ends_meanwhile(
    handle: LabHandle, operator: Operator, before: list[Proof]
) -> None:
    """The listing lacks the app, and one of its instances ends: its address waits for whoever follows.

    That is another instance after the one that ended was let go, or, where Marathon is quicker than the next
    listing, the same one in a new container.
    """
    plan, victim = handle.plan, of(before, JOBS)[0]
    async with listing(operator, {"kind": "half"}):
        await eventually(lambda: braked(plan, operator), DEADLINE_S)
        logged = log_size(plan)
        await handle.docker_kill(victim.task)
        await eventually(lambda: let_go_or_followed(plan, victim.address, logged), DEADLINE_S)
        assert {lease["address"]: lease["state"] for lease in await background.leases(plan)}[
            victim.address
        ] in ("idle", "bound")
    await right_again(plan, operator)
    after = await agreed(handle, operator, list(FLEET.items()), gone={victim.task})
    assert seated(after) == seated(before)


async def braked(plan: LabPlan, operator: Operator) -> tuple[None, str]:
    await operator.send("POST", "/lab/events", REGISTERED)
    return None, "" if (await status(plan)).overview.brake else "the brake is off"


async def let_go_or_followed(plan: LabPlan, address: str, logged: int) -> tuple[None, str]:
    told = [line for line in log_lines(plan, logged) if line.get("address") == address]
    ports = [line["shows"] for line in told if line["event"] == "applied" and line["sink"] == "network"]
    ended = any(line["event"] == "let go" for line in told) or "port" in ports
    return None, "" if ended else f"{address} is neither let go nor taken up again"


def seated(proofs: Sequence[Proof]) -> set[tuple[str, str]]:
    return {(proof.app, proof.address) for proof in proofs}


async def held_until_released(
    handle: LabHandle, operator: Operator, addresses: set[str], seats: set[str]
) -> None:
    """All apps are deleted and the daemon does not hear of it: that looks as wrong as an empty listing.

    That the containers are dead, their hosts prove as soon as the daemon compares: no client is led there any
    more. Everything that holds a seat stays.
    """
    plan = handle.plan
    before, logged = await traces(handle), log_size(plan)
    await delete_unheard(operator)
    await repeated(plan, operator, "merged", [REGISTERED])
    await tells_why_it_holds(plan, "15 of 15 instances and 6 apps", logged)
    await background.command(plan, "verify")  # unless the daemon's own timer came before
    await eventually(lambda: no_client_is_led(handle, addresses), DEADLINE_S)
    after = await traces(handle)
    assert [set(marked(found)) for found in (before, after)] == [addresses] * 2
    assert seat_records(after["zones"]) == seat_records(before["zones"])
    assert after["servers"].keys() == before["servers"].keys(), "they stay declared"
    for kept in ("items", "changes of items", "leases"):
        assert after[kept] == before[kept], kept

    reason = (await status(plan)).overview.brake
    code, output = await background.command(plan, "brake", "release")
    assert (code, output) == (0, f"held: {reason}\nreleased: what was held is treated as gone\n")
    await eventually(lambda: nothing_left(handle), DEADLINE_S)
    leases = {lease["address"]: lease["state"] for lease in await background.leases(plan)}
    given_back = addresses | seats
    assert {address: leases.get(address) for address in given_back} == dict.fromkeys(given_back, "cooling")
    await right_again(plan, operator)
    assert (await background.command(plan, "brake", "release"))[0] == 1


async def no_client_is_led(handle: LabHandle, addresses: set[str]) -> tuple[None, str]:
    """Whether no app's name and no balancer in rotation leads to one of these addresses."""
    zone = await handle.transfer(ZONE)
    named = {line.split()[-1] for line in zone if line.split()[0] in APP_NAMES}
    states = await server_states(handle)
    led = {
        "names": named & addresses,
        "haproxy": {one for one in addresses if states.get(one) == "UP"},
        "nginx": addresses.intersection(nginx_addresses(handle)),
    }
    return None, "; ".join(f"{where}: {sorted(left)}" for where, left in led.items() if left)


def seat_records(zones: Mapping[str, Sequence[str]]) -> list[str]:
    """All records but those of apps' names and the zones' serial numbers."""
    lines = [line for zone in zones.values() for line in zone]
    return [line for line in lines if "SOA" not in line and line.split()[0] not in APP_NAMES | APP_MARKS]


async def delete_unheard(operator: Operator) -> None:
    """Delete the fleet while the daemon hears no event and has no listing that shows it half-way."""
    await operator.send("POST", "/lab/faults", {"action": "drop"})
    async with listing(operator, {"kind": "html"}):
        await operator.send("DELETE", "/v2/groups/shop?force=true")
        await operator.send("DELETE", "/v2/groups/yard?force=true")
        await eventually(lambda: nothing_runs(operator), DEADLINE_S)
    await operator.send("DELETE", "/lab/faults")
    await operator.send("POST", "/lab/streams/cut")


async def nothing_runs(operator: Operator) -> tuple[None, str]:
    """Whether every instance and deployment has ended, and with them the last event about them."""
    left = [instance["id"] for instance in await operator.send("GET", "/lab/instances")]
    left += [deployment["id"] for deployment in await operator.send("GET", "/v2/deployments")]
    return None, f"{left} have not ended" if left else ""


def marked(found: dict[str, Any]) -> list[str]:
    """The addresses on all switch ports."""
    return [port["external_ids"]["mooring-address"] for ports in found["ports"].values() for port in ports]


# -- real ends


@asynccontextmanager
async def never_braked(plan: LabPlan) -> AsyncIterator[None]:
    """Meanwhile the brake is off all the time."""
    reasons: list[str | None] = []
    logged = log_size(plan)

    async def look() -> None:
        while True:
            reasons.append((await status(plan)).overview.brake)
            await asyncio.sleep(LOOK_EVERY_S)

    async with beside(look()):
        yield
    assert len(reasons) > REPEATS
    assert set(reasons) == {None}
    assert [line for line in log_lines(plan, logged) if "brake" in line["event"]] == []


async def gone(handle: LabHandle, proofs: list[Proof]) -> tuple[None, str]:
    """Whether no switch, name, balancer, item or bound lease has these instances' addresses."""
    addresses = {proof.address for proof in proofs}
    marks = [mark for agent in handle.plan.agents for mark in await marked_addresses(handle, agent.hostname)]
    records = [word for line in await zone_records(handle) for word in line.split()]
    states = await server_states(handle)
    items = (await handle.cmdb_items()).values()
    leases = await background.leases(handle.plan)
    left = {
        "ports": addresses.intersection(marks),
        "names": addresses.intersection(records),
        "haproxy": {one for one in addresses if states.get(one) in ("UP", "DRAIN")},
        "nginx": addresses.intersection(nginx_addresses(handle)),
        "items": {item["address"] for item in items if item.get("status") in ("live", "down")} & addresses,
        "leases": {lease["address"] for lease in leases if lease["state"] == "bound"} & addresses,
    }
    return None, "; ".join(f"{kind}: {sorted(where)}" for kind, where in left.items() if where)


def of(proofs: list[Proof], *names: str) -> list[Proof]:
    return [proof for proof in proofs if proof.app in names]


async def test_real_ends_of_many_pass_at_once_and_an_empty_listing_is_not_believed_of_few_either(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    before = await deployed(handle, operator)
    async with never_braked(plan):
        await killed_all_at_once(handle, operator, before)
        await operator.scale(WEB, 0)  # 5 of 15
        await eventually(lambda: gone(handle, of(before, WEB)), DEADLINE_S)
        await agreed(handle, operator, [(API, 4), (DB, 3), (JOBS, 3)])
        await operator.send("DELETE", "/v2/groups/shop?force=true")  # 7 of 10
        await eventually(lambda: gone(handle, of(before, API, DB)), DEADLINE_S)
        await agreed(handle, operator, [(JOBS, 3)])
    await held(handle, operator, {"kind": "empty"}, "3 of 3 instances and 1 app ")


async def killed_all_at_once(handle: LabHandle, operator: Operator, before: list[Proof]) -> None:
    """They come back under new task ids, at the addresses they had."""
    tasks = {proof.task for proof in before}
    await operator.send("POST", "/v2/tasks/delete", {"ids": sorted(tasks)})
    after = await agreed(handle, operator, list(FLEET.items()), gone=tasks)
    assert {proof.address for proof in after} == {proof.address for proof in before}
