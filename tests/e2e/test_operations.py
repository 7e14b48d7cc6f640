"""What an operator does with a running daemon: ask, check, observe, pause, and outlive outages of parts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from mooring.lab import background, edges, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import eventually, proven
from mooring.lab.sample import DB, WEB, Operator, app, vhost
from tests.e2e.evidence import (
    DEADLINE_S,
    agreed,
    log_lines,
    log_size,
    metric,
    rows,
    status,
    switch_ports,
)

PARTS = {"marathon", "network", "names", "app_names", "haproxy", "nginx", "ledger", "webhook"}


async def end(plan: LabPlan, part: str) -> None:
    """Kill one of the lab's servers and wait until it is gone."""
    pid = supervise.pid_of(plan, part)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    async def ask() -> tuple[None, str]:
        return None, "" if supervise.pid_of(plan, part) is None else f"{part} still runs"

    await eventually(ask, DEADLINE_S)


@asynccontextmanager
async def without(plan: LabPlan, *servers: str) -> AsyncIterator[None]:
    """Meanwhile these servers are dead."""
    for server in servers:
        await end(plan, server)
    try:
        yield
    finally:
        for part in edges.parts(plan):
            if part.name in servers:
                await supervise.start(plan, part)


async def ports_are(handle: LabHandle, count: int) -> tuple[None, str]:
    there = len(await switch_ports(handle))
    return None, "" if there == count else f"{there} ports are attached instead of {count}"


class TestCheck:
    async def test_every_part_answers(self, plan: LabPlan) -> None:
        code, output = await background.command(plan, "check")
        assert code == 0, output
        lines = [line.split(maxsplit=2) for line in output.splitlines()]
        assert all(words[0] == "ok" for words in lines if words[1] in PARTS)
        assert {words[1] for words in lines} >= PARTS - {"probe", "files"}
        assert "3 hosts answer: agent-1, agent-2, agent-3" in output

    async def test_a_part_that_does_not_answer_is_named(self, plan: LabPlan, handle: LabHandle) -> None:
        await handle.lose_host("agent-2")
        async with without(plan, "bind", "cmdb"):
            code, output = await background.command(plan, "check")
        await handle.return_host("agent-2")
        assert code == 1, output
        failed = {line.split()[1]: line for line in output.splitlines() if line.startswith("FAILED")}
        assert set(failed) == {"network", "names", "app_names", "webhook"}
        assert "agent-2" in failed["network"]
        assert "agent-1" not in failed["network"]


class TestConfiguration:
    async def test_every_fault_is_told_at_once(self, plan: LabPlan, tmp_path: Path) -> None:
        text = plan.daemon_config.read_text()
        text = text.replace("timeout_s = 10.0", 'timeout_s = "soon"').replace("ttl = 5", "ttl = 0")
        text = text.replace("bridge =", "brigde =").replace('zone = "mooring.test"\n', "")
        text = text.replace('gateway = "10.64.0.1"', 'gateway = "10.99.0.1"')
        text = text.replace(str(plan.tsig_secret), str(tmp_path / "nowhere.secret"))
        for command in ("check", "run"):
            code, output = await refused_config(plan, tmp_path, text, command)
            assert code == 2
            keys = ("marathon.timeout_s", "dns.ttl", "ansible.brigde", "dns.zone")
            keys += ("dns.secret_file", "pools.shop")
            for key in keys:
                assert f"broken.toml: {key}: " in output
            assert len(output.splitlines()) == len(keys)


async def refused_config(plan: LabPlan, tmp_path: Path, text: str, command: str) -> tuple[int, str]:
    broken = tmp_path / "broken.toml"
    broken.write_text(text)
    return await mooring(plan, "--config", str(broken), command)


async def mooring(plan: LabPlan, *words: str) -> tuple[int, str]:
    """The command, without the lab's own configuration: exit status and all output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mooring.controller.cli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=supervise.environment(plan),
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


class TestAsking:
    async def test_tables_json_and_exit_codes(
        self, plan: LabPlan, handle: LabHandle, operator: Operator
    ) -> None:
        await operator.deploy(app(WEB, 2, 8080))
        proofs = await agreed(handle, operator, [(WEB, 2)])
        code, output = await background.command(plan, "status", "--json", "--wait", "60")
        told = json.loads(output)
        assert (code, told["in_step"]) == (0, True)
        shown = {(row["task"], row["host"], row["address"]) for row in told["instances"]}
        assert shown == {(proof.task, proof.host, proof.address) for proof in proofs}

        code, output = await background.command(plan, "status")
        assert code == 0
        assert all(any(proof.address in line for line in output.splitlines()) for proof in proofs)
        await leases_and_pools(plan, {proof.address for proof in proofs})

        code, output = await background.command(plan, "history", proofs[0].address, "--json")
        assert code == 0
        assert json.loads(output)[0]["app"] == WEB
        assert (await background.command(plan, "status", "--nonsense"))[0] == 2
        code, output = await mooring(plan, "--socket", str(plan.daemon_dir / "nobody.sock"), "status")
        assert code == 3
        assert "no daemon listens there" in output


async def leases_and_pools(plan: LabPlan, addresses: set[str]) -> None:
    code, output = await background.command(plan, "leases", "--json")
    assert code == 0
    assert {lease["address"] for lease in json.loads(output) if lease["state"] == "bound"} == addresses
    code, output = await background.command(plan, "leases")
    assert code == 0
    assert all(address in output for address in addresses)
    code, output = await background.command(plan, "pools", "--json")
    assert code == 0
    pools = {pool["name"]: pool for pool in json.loads(output)}
    assert {(pool["network"], pool["vlan"]) for pool in pools.values()} == {
        ("10.64.0.0/22", 100),
        ("10.64.8.0/24", 200),
    }
    assert pools["shop"]["leases"]["bound"] == len(addresses)
    code, output = await background.command(plan, "pools")
    assert code == 0
    assert "10.64.8.0/24" in output


class TestObserving:
    async def test_it_says_what_it_would_do_and_does_nothing(
        self, plan: LabPlan, handle: LabHandle, operator: Operator
    ) -> None:
        await operator.deploy(app(DB, 1, 5432))
        (db,) = await agreed(handle, operator, [(DB, 1)])
        await background.stop(plan)
        before = await world(plan, handle)
        logged = log_size(plan)
        await background.start(plan, "--observe")
        try:
            await operator.deploy(app(WEB, 2, 8080))
            await operator.scale(DB, 0)
            told = await eventually(lambda: rehearsed(plan, logged), DEADLINE_S)
            _, output = await background.command(plan, "status")
            assert "observing only" in output
        finally:
            await background.stop(plan)
        assert {line["sink"] for line in told} >= {"network", "names", "haproxy", "nginx", "webhook"}
        assert any(line["to"] == "nothing" and db.address in str(line["instead_of"]) for line in told)
        after = await world(plan, handle)
        assert after == before

        await background.start(plan)
        await agreed(handle, operator, [(WEB, 2)])


async def rehearsed(plan: LabPlan, since: int) -> tuple[list[dict[str, Any]], str]:
    """What an observer has said it would do: two new instances up to their names, one old one gone."""
    told = [line for line in log_lines(plan, since) if line["event"] == "would change"]
    wired = {line["instance"] for line in told if line["sink"] == "network" and WEB in line["to"]}
    gone = {line["instance"] for line in told if line["sink"] == "network" and line["to"] == "nothing"}
    problem = f"said so far: wire {sorted(wired)}, remove {sorted(gone)}"
    return told, "" if (len(wired), len(gone)) == (2, 1) else problem


async def world(plan: LabPlan, handle: LabHandle) -> list[Any]:
    """Everything that the daemon may change, as it is now."""
    zones = [await handle.transfer(zone) for zone in ("mooring.test", "64.10.in-addr.arpa")]
    ports = sorted(await switch_ports(handle), key=lambda port: port["name"])
    current = os.readlink(plan.nginx_dir / "current")
    proxy = (plan.haproxy_dir / "haproxy.cfg").read_text()
    servers = await handle.haproxy("show servers state")
    admin = [line.split()[:7] for line in servers.splitlines()]
    return [zones, ports, current, proxy, admin, await handle.cmdb_items()]


class TestPausing:
    async def test_everything(self, plan: LabPlan, handle: LabHandle, operator: Operator) -> None:
        await operator.deploy(app(WEB, 2, 8080))
        before = await agreed(handle, operator, [(WEB, 2)])
        code, output = await background.command(plan, "pause")
        assert (code, output.strip()) == (0, "paused: everything")
        await operator.scale(WEB, 3)
        await operator.deploy(app(DB, 1, 5432))
        await eventually(lambda: waiting(plan, {WEB: 1, DB: 1}), DEADLINE_S)
        assert {port["mooring-address"] for port in await switch_ports(handle)} == {
            proof.address for proof in before
        }
        assert await metric(plan, "mooring_paused") == 1

        await background.stop(plan)  # a pause outlives the daemon
        await background.start(plan)
        await eventually(lambda: waiting(plan, {WEB: 1, DB: 1}), DEADLINE_S)
        assert len(await switch_ports(handle)) == 2
        code, output = await background.command(plan, "resume")
        assert (code, output.strip()) == (0, "nothing is paused")
        after = await agreed(handle, operator, [(WEB, 3), (DB, 1)])
        assert {proof.address for proof in before} <= {proof.address for proof in after}

    async def test_one_app(self, plan: LabPlan, handle: LabHandle, operator: Operator) -> None:
        await operator.deploy(app(DB, 1, 5432))
        (db,) = await agreed(handle, operator, [(DB, 1)])
        code, output = await background.command(plan, "pause", DB)
        assert (code, output.strip()) == (0, f"paused: {DB}")
        await operator.scale(DB, 2)
        await operator.deploy(app(WEB, 1, 8080))
        (web,) = await agreed_beside(handle, operator, WEB)
        await eventually(lambda: waiting(plan, {DB: 1}), DEADLINE_S)
        assert {port["mooring-address"] for port in await switch_ports(handle)} == {db.address, web.address}
        code, output = await background.command(plan, "resume", DB)
        assert (code, output.strip()) == (0, "nothing is paused")
        await agreed(handle, operator, [(WEB, 1), (DB, 2)])


async def agreed_beside(handle: LabHandle, operator: Operator, name: str) -> list[Any]:
    """Proofs of one app, whatever else there is."""
    return await proven(handle, operator, [(name, 1)], DEADLINE_S)


async def waiting(plan: LabPlan, apps: dict[str, int]) -> tuple[None, str]:
    """Whether so many instances of each app run and have nothing yet."""
    found = await status(plan)
    counts = {
        name: sum(
            row.app == name and row.phase.value == "waiting" and row.state == "running"
            for row in found.instances
        )
        for name in apps
    }
    return None, "" if counts == apps else f"waiting are {counts}"


class TestOutages:
    async def test_names_and_inventory_are_caught_up_when_their_servers_are_back(
        self, plan: LabPlan, handle: LabHandle, operator: Operator
    ) -> None:
        async with without(plan, "bind", "cmdb"):
            await operator.deploy(app(WEB, 2, 8080))
            await eventually(lambda: answered(handle, WEB), DEADLINE_S)
            silent = {"names", "app_names", "webhook"}
            assert len(await eventually(lambda: complains(plan, silent), DEADLINE_S)) == 2
            assert (await background.command(plan, "status"))[0] == 1
            assert await metric(plan, "mooring_sink_outcomes_total", sink="names", outcome="retry") > 0
        proofs = await agreed(handle, operator, [(WEB, 2)])
        await eventually(lambda: complains(plan, set()), DEADLINE_S)

        addresses = {proof.address for proof in proofs}
        async with without(plan, "bind"):
            await operator.delete(WEB)
            await eventually(lambda: ports_are(handle, 0), DEADLINE_S)
            kept = {lease["address"] for lease in await background.leases(plan) if lease["state"] == "bound"}
            assert kept == addresses, "an address may not be given back while a name still points at it"
        await eventually(lambda: given_back(plan, addresses), DEADLINE_S)


async def answered(handle: LabHandle, name: str) -> tuple[None, str]:
    """Whether the app is served through both balancers."""
    pages = [await handle.via_haproxy(vhost(name)), await handle.via_nginx(vhost(name))]
    told = [page.status for page in pages]
    return None, "" if told == [200, 200] else f"answers are {told}"


async def complains(plan: LabPlan, sinks: set[str]) -> tuple[list[Any], str]:
    """Whether every instance of web names exactly these sinks as its problem."""
    found = await rows(plan, WEB)
    told = [{part.partition(":")[0] for part in row.problem.split("; ") if part} for row in found]
    return found, "" if found and all(one == sinks for one in told) else f"problems: {told}"


async def given_back(plan: LabPlan, addresses: set[str]) -> tuple[None, str]:
    told = {lease["address"]: lease["state"] for lease in await background.leases(plan)}
    wrong = {address: told.get(address) for address in addresses if told.get(address) != "cooling"}
    return None, f"leases are {wrong}" if wrong else ""


class TestSecondDaemon:
    async def test_it_is_refused_and_the_first_goes_on(
        self, plan: LabPlan, handle: LabHandle, operator: Operator
    ) -> None:
        first = supervise.pid_of(plan, background.NAME)
        code, output = await background.command(plan, "run")
        assert code == 1
        assert "mooring.db" in output
        assert f"is in use by process {first}" in output
        assert supervise.pid_of(plan, background.NAME) == first
        assert (await background.command(plan, "status"))[0] == 0
        await operator.deploy(app(WEB, 1, 8080))
        await agreed(handle, operator, [(WEB, 1)])


async def test_readiness_says_why_not(plan: LabPlan, operator: Operator) -> None:
    url = f"http://127.0.0.1:{plan.portal_port}"
    await eventually(lambda: answers_with(f"{url}/readyz", 200, "ready"), DEADLINE_S)
    await operator.send("POST", "/lab/failover", {"seconds": 4, "answer": 503})
    await eventually(lambda: answers_with(f"{url}/readyz", 503, "event stream: "), DEADLINE_S)
    await eventually(lambda: answers_with(f"{url}/healthz", 200, "alive"), DEADLINE_S)
    await eventually(lambda: answers_with(f"{url}/readyz", 200, "ready"), DEADLINE_S)


async def answers_with(url: str, expected: int, words: str) -> tuple[None, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
        right = answer.status == expected and words in text
        return None, "" if right else f"{url} answers {answer.status} {text!r}"
