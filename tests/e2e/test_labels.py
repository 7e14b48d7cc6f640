"""Hostile and mistaken labels in one burst with good ones: each is refused by name, nobody else suffers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mooring.lab import background
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator, app
from tests.e2e.evidence import (
    DEADLINE_S,
    agreed,
    container_addresses,
    log_lines,
    log_size,
    metric,
    status,
    switch_ports,
)

GOOD = [("/good/one", 1), ("/good/two", 2)]
TURNED = "/good/two"
NOTIFY = {"MOORING_NOTIFY_X_FROM": "/good/one", "MOORING_NOTIFY_X_PATH": "/etc/hostile"}


def bad_labels(canary: Path, executed: Path) -> dict[str, tuple[str, str, dict[str, str]]]:
    """By app: the label at fault, words its message must contain, and the labels."""
    destroy, run = f";rm -rf {canary}", f"$(touch {executed})"
    write = f"{{% for l in open('{executed}', 'w') %}}{{% endfor %}}"
    escape = "{{ self_.__class__.__init__.__globals__ }}"
    return {
        "/bad/pool": ("MOORING_POOL", "no pool 'nosuch'", {"MOORING_POOL": "nosuch"}),
        "/bad/outside": (
            "MOORING_IPS",
            "192.0.2.7",
            {"MOORING_IP_POLICY": "pinned", "MOORING_IPS": "192.0.2.7"},
        ),
        "/bad/shell-pool": ("MOORING_POOL", "no pool", {"MOORING_POOL": destroy}),
        "/bad/shell-name": ("MOORING_DNS_NAME", "not a host name", {"MOORING_DNS_NAME": destroy}),
        "/bad/shell-vhost": ("HAPROXY_0_VHOST", "not a host name", {"HAPROXY_0_VHOST": run}),
        "/bad/line-vhost": (
            "HAPROXY_0_VHOST",
            "not a host name",
            {"HAPROXY_0_VHOST": "a.test\n  server evil 10.64.0.1:80"},
        ),
        "/bad/shell-ports": ("MOORING_PORTS", "not a port", {"MOORING_PORTS": f"80{destroy}"}),
        "/bad/shell-path": (
            "MOORING_NOTIFY_X_PATH",
            "not a plain absolute path",
            {**NOTIFY, "MOORING_NOTIFY_X_PATH": f"/etc/x{destroy}"},
        ),
        "/bad/shell-command": (
            "MOORING_NOTIFY_X_COMMAND",
            "no shell runs it",
            {**NOTIFY, "MOORING_NOTIFY_X_COMMAND": f"true {destroy}"},
        ),
        "/bad/long": ("MOORING_DNS_NAME", "10240 characters", {"MOORING_DNS_NAME": "x" * 10240}),
        "/bad/include": (
            "MOORING_NOTIFY_X_TEMPLATE",
            "include is not allowed",
            {**NOTIFY, "MOORING_NOTIFY_X_TEMPLATE": "{% include '/etc/shadow' %}"},
        ),
        "/bad/open": (
            "MOORING_NOTIFY_X_TEMPLATE",
            "not allowed",
            {**NOTIFY, "MOORING_NOTIFY_X_TEMPLATE": write},
        ),
        "/bad/escape": (
            "MOORING_NOTIFY_X_TEMPLATE",
            "not a value that a template may read",
            {**NOTIFY, "MOORING_NOTIFY_X_TEMPLATE": escape},
        ),
    }


def patient(name: str, labels: dict[str, str]) -> dict[str, Any]:
    """An app that Marathon does not kill for having no address."""
    return {**app(name, 1, 8080, labels), "healthChecks": []}


async def put_all(plan: LabPlan, definitions: list[dict[str, Any]]) -> None:
    """All in one request: a single deployment starts them together."""
    async with (
        aiohttp.ClientSession() as session,
        session.put(plan.marathon_url + "/v2/apps", json=definitions) as answer,
    ):
        assert answer.status < 300, await answer.text()


async def refusals_are(plan: LabPlan, apps: set[str]) -> tuple[None, str]:
    told = set((await status(plan)).refusals)
    return None, "" if told == apps else f"refused are {sorted(told)}"


@pytest.mark.timeout(300)
async def test_bad_labels_are_refused_by_name_and_the_good_apps_of_the_burst_served(
    plan: LabPlan, handle: LabHandle, operator: Operator, tmp_path: Path
) -> None:
    canary, executed = tmp_path / "canary", tmp_path / "executed"
    (canary / "bird").mkdir(parents=True)
    bad = bad_labels(canary, executed)
    logged = log_size(plan)

    burst = [patient(name, labels) for name, (_, _, labels) in bad.items()]
    burst += [app(name, count, 8080) for name, count in GOOD]
    await put_all(plan, burst)
    await agreed(handle, operator, GOOD)
    await eventually(lambda: refusals_are(plan, set(bad)), DEADLINE_S)

    await told_by_status(plan, bad)
    assert await metric(plan, "mooring_refused_apps") == len(bad)
    assert await metric(plan, "mooring_reconcile_errors_total") == 0
    unwanted = [line for line in log_lines(plan, logged) if line["level"] in ("critical", "exception")]
    assert unwanted == []
    assert (canary / "bird").exists()
    assert not executed.exists()
    assert "evil" not in (plan.haproxy_dir / "haproxy.cfg").read_text()
    assert {port["mooring-app"] for port in await switch_ports(handle)} == {name for name, _ in GOOD}
    await bad_containers_untouched(handle)

    await repaired(plan, handle, operator, set(bad))
    await a_good_app_turned_bad_keeps_its_last_good_state(plan, handle, operator)


async def told_by_status(plan: LabPlan, bad: dict[str, tuple[str, str, dict[str, str]]]) -> None:
    """In text and in JSON: one message for each app, with app, label and reason; exit status 1."""
    code, text = await background.command(plan, "status")
    assert code == 1
    lines = [line for line in text.splitlines() if line.startswith("refused: ")]
    assert len(lines) == len(bad)
    code, output = await background.command(plan, "status", "--json")
    assert code == 1
    told = json.loads(output)
    assert told["in_step"] is False
    phases = {row["app"]: row["phase"] for row in told["instances"]}
    for name, (label, reason, _) in bad.items():
        (line,) = [line for line in lines if f"{name}:" in line or f"{name} " in line]
        for message in (line, told["refusals"][name]):
            assert name in message
            assert label in message
            assert reason in message
            assert len(message) < 500
        assert phases[name] == "refused"
    assert {phases[name] for name, _ in GOOD} == {"serving"}


async def bad_containers_untouched(handle: LabHandle) -> None:
    """No address inside, no file written."""
    inside = await container_addresses(handle)
    victims = [task for task in inside if task.startswith("bad_")]
    assert victims
    for task in victims:
        assert inside[task] == []
        status_code, _ = await handle.container_exec(task, ["ls", "/etc/hostile"])
        assert status_code != 0


async def repaired(plan: LabPlan, handle: LabHandle, operator: Operator, bad: set[str]) -> None:
    """A corrected label serves the app; the others stay refused."""
    name = "/bad/pool"
    await operator.send("PUT", f"/v2/apps{name}?force=true", app(name, 1, 8080))
    await agreed(handle, operator, [*GOOD, (name, 1)])
    await eventually(lambda: refusals_are(plan, bad - {name}), DEADLINE_S)
    for refused in bad - {name}:
        await operator.delete(refused)
    await eventually(lambda: refusals_are(plan, set()), DEADLINE_S)


async def a_good_app_turned_bad_keeps_its_last_good_state(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    before = await agreed(handle, operator, [(TURNED, 2), ("/good/one", 1), ("/bad/pool", 1)])
    spoilt = app(TURNED, 2, 8080, {"MOORING_DNS_NAME": "-x-"})
    await operator.send("PUT", f"/v2/apps{TURNED}?force=true", spoilt)
    old = {proof.task for proof in before if proof.app == TURNED}
    after = await agreed(handle, operator, [(TURNED, 2), ("/good/one", 1), ("/bad/pool", 1)], gone=old)
    assert {proof.address for proof in after} == {proof.address for proof in before}
    assert "MOORING_DNS_NAME" in (await status(plan)).refusals[TURNED]
