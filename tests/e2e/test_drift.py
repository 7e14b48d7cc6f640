"""People change things behind the daemon's back; it finds out, says so, and puts its own right.

All of it is done with the tools that an operator would use: `ovs-vsctl` on the host, `nsupdate`, HAProxy's
socket, a row deleted in the CMDB.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from mooring.lab import background, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import BRIDGE, ZONE, LabPlan
from mooring.lab.proofs import Proof, eventually, server_states
from mooring.lab.sample import DB, WEB, Operator, sample_apps
from tests.e2e.evidence import DEADLINE_S, agreed, metric, switch_ports

PERIOD_S = 20.0  # `verify_every_s` of the daemon here; the lab's own is longer
STRANGER = f"printer.{ZONE}"
APPS = [(DB, 1), (WEB, 3)]


@pytest_asyncio.fixture(autouse=True, scope="module", loop_scope="session")
async def looks_often(plan: LabPlan) -> AsyncIterator[None]:
    """The daemon of this file compares more often than the lab's: each comparison costs a play per host."""
    kept = plan.daemon_config.read_text()
    often = re.sub(r"(?m)^verify_every_s = .*$", f"verify_every_s = {PERIOD_S}", kept)
    assert often != kept
    # Nor shall a round of a host find what is done by hand before `mooring verify` is asked.
    often = often.replace("[hosts]", f"[host_life]\nobserve_every_s = {10 * DEADLINE_S}\n\n[hosts]")
    await background.stop(plan)
    plan.daemon_config.write_text(often)
    yield
    await background.stop(plan)
    plan.daemon_config.write_text(kept)


async def deployed(handle: LabHandle, operator: Operator) -> list[Proof]:
    for definition in sample_apps():
        await operator.deploy(definition)
    return await agreed(handle, operator, APPS)


async def right_after_a_look(plan: LabPlan) -> None:
    """Wait for the daemon's own next look to end, so that the one after it is a whole period away."""
    last = await _verified(plan)

    async def ask() -> tuple[None, str]:
        return None, "" if await _verified(plan) > last else "the daemon does not look"

    await eventually(ask, DEADLINE_S)


async def _verified(plan: LabPlan) -> float:
    return await metric(plan, "mooring_verified_timestamp_seconds", sink="network")


async def verify(plan: LabPlan) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and findings of `mooring verify`."""
    code, output = await background.command(plan, "verify", "--json")
    return code, json.loads(output)["findings"]


async def nsupdate(plan: LabPlan, *lines: str) -> None:
    script = plan.state_dir / "by-hand.nsupdate"
    words = [f"server 127.0.0.1 {plan.dns_port}", f"zone {ZONE}", *lines, "send"]
    script.write_text("\n".join(words) + "\n")
    await supervise.run(plan, ["nsupdate", "-k", str(plan.tsig_key), str(script)])


async def remove_port(handle: LabHandle, address: str) -> None:
    (port,) = [port for port in await switch_ports(handle) if port["mooring-address"] == address]
    await handle.exec_in(port["host"], ["ovs-vsctl", "del-port", BRIDGE, port["name"]])


async def server_of(handle: LabHandle, address: str) -> str:
    """`backend/server` of an address at HAProxy."""
    rows = [line.split() for line in (await handle.haproxy("show servers state")).splitlines()]
    (found,) = [f"{row[1]}/{row[3]}" for row in rows if len(row) > 4 and row[4] == address]
    return found


async def delete_row(plan: LabPlan, key: str) -> None:
    url = f"http://127.0.0.1:{plan.cmdb_port}/items/{key.replace('/', '%2F')}"
    async with aiohttp.ClientSession() as session, session.delete(url) as answer:
        assert answer.status == 204


async def test_what_is_done_by_hand_is_named_and_all_but_the_foreign_repaired(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    unplugged, renamed, disabled, forgotten = before = await deployed(handle, operator)
    await right_after_a_look(plan)
    name = renamed.names[0].removesuffix(".")
    server = await server_of(handle, disabled.address)
    row = next(
        key for key, item in (await handle.cmdb_items()).items() if item["address"] == forgotten.address
    )

    await remove_port(handle, unplugged.address)
    await nsupdate(
        plan, f"update delete {name} A", f"update add {name} 5 A 192.0.2.9",
        f"update add {STRANGER} 60 A 192.0.2.77",
    )  # fmt: skip
    await handle.haproxy(f"disable server {server}")
    await delete_row(plan, row)

    code, findings = await verify(plan)
    told = {(finding["sink"], finding["kind"], finding["key"]): finding for finding in findings}
    assert code == 1
    assert set(told) == {
        ("network", "missing", f"{unplugged.address} on {unplugged.host}"),
        ("names", "different", name),
        ("haproxy", "different", server),
        ("webhook", "missing", row),
        ("names", "foreign", f"{STRANGER} A 192.0.2.77"),
    }
    remedies = {finding["remedy"] for finding in findings if finding["kind"] != "foreign"}
    assert remedies == {"is being repaired"}
    instances = [_instance(proof) for proof in (unplugged, renamed, disabled, forgotten)]
    assert {finding["instance"] for finding in findings} == {*instances, None}

    after = await agreed(handle, operator, APPS, deadline_s=PERIOD_S)
    assert _seats(after) == _seats(before)
    assert await handle.dig(name) == [renamed.address]
    assert (await server_states(handle))[disabled.address] == "UP"
    assert (await handle.cmdb_items())[row]["status"] == "live"
    assert await handle.dig(STRANGER) == ["192.0.2.77"]

    code, findings = await verify(plan)
    assert (code, [finding["kind"] for finding in findings]) == (1, ["foreign"])
    await nsupdate(plan, f"update delete {STRANGER} A")
    assert await verify(plan) == (0, [])
    for sink, kind in [("network", "missing"), ("names", "different"), ("haproxy", "different"),
                       ("webhook", "missing")]:  # fmt: skip
        assert await metric(plan, "mooring_repairs_total", sink=sink, kind=kind) >= 1
    assert await metric(plan, "mooring_repairs_total", kind="foreign") == 0


@pytest.mark.parametrize("word", ["state maint", "state drain", "addr 10.64.0.250"])
async def test_without_being_asked_it_repairs_within_a_period(
    plan: LabPlan, handle: LabHandle, operator: Operator, word: str
) -> None:
    before = await deployed(handle, operator)
    victim = before[-1]
    await handle.haproxy(f"set server {await server_of(handle, victim.address)} {word}")
    await remove_port(handle, before[0].address)
    assert (await server_states(handle)).get(victim.address) != "UP"
    await _repaired(handle, [victim.address], within_s=2 * PERIOD_S)
    assert _seats(await agreed(handle, operator, APPS)) == _seats(before)


async def _repaired(handle: LabHandle, addresses: Sequence[str], within_s: float) -> None:
    async def ask() -> tuple[None, str]:
        states = await server_states(handle)
        down = {address: states.get(address) for address in addresses if states.get(address) != "UP"}
        return None, f"HAProxy shows {down}" if down else ""

    await eventually(ask, within_s)


async def test_a_silent_host_is_not_compared_and_nothing_else_suffers(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    proofs = await deployed(handle, operator)
    lost = proofs[0].host
    await handle.lose_host(lost)
    try:
        code, output = await background.command(plan, "verify", "--json")
    finally:
        await handle.return_host(lost)
    told = json.loads(output)
    assert list(told["unread"]) == ["files", f"network on {lost}", "probe"]
    assert [finding for finding in told["findings"] if finding["sink"] == "network"] == []
    assert code == (1 if told["findings"] else 0)


async def test_a_plan_tells_what_waits_and_changes_nothing(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    before = await deployed(handle, operator)
    await background.command(plan, "pause", WEB)
    await operator.scale(WEB, 2)

    async def left() -> tuple[None, str]:
        return None, "" if len(await operator.running(WEB)) == 2 else "three still run"

    await eventually(left, DEADLINE_S)
    changes = await eventually(lambda: _planned(plan), DEADLINE_S)
    (gone,) = (
        {proof.task for proof in before}
        - {str(task.id) for task in await operator.running(WEB)}
        - {proof.task for proof in before if proof.app == DB}
    )
    assert {change["shall_show"] for change in changes if change["sink"] == "network"} == {"nothing"}
    assert {change["held_by"] for change in changes} == {"paused"}
    assert {change["instance"] for change in changes} == {gone.partition("._app.")[0]}
    address = next(proof.address for proof in before if proof.task == gone)
    assert address in {port["mooring-address"] for port in await switch_ports(handle)}
    await background.command(plan, "resume", WEB)
    await agreed(handle, operator, [(DB, 1), (WEB, 2)])


async def _planned(plan: LabPlan) -> tuple[list[dict[str, Any]], str]:
    code, output = await background.command(plan, "plan", "--json")
    assert code == 0, output
    changes = json.loads(output)["changes"]
    removed = [
        change for change in changes if (change["sink"], change["shall_show"]) == ("network", "nothing")
    ]
    return changes, "" if removed else "nothing is planned yet"


def _instance(proof: Proof) -> str:
    return proof.task.partition("._app.")[0]


def _seats(proofs: Sequence[Proof]) -> set[tuple[str, str]]:
    return {(proof.task, proof.address) for proof in proofs}
