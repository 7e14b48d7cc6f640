"""A lab comes up whole, goes down without a trace, and never harms what is not its own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.lab import edges, lifecycle, supervise
from mooring.lab.plan import LabError, LabPlan
from tests.integration.labs import fresh_plan, remains

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def plan() -> Iterator[LabPlan]:
    made = fresh_plan("life")
    yield made
    lifecycle.down(made)


def command(plan: LabPlan, *words: str) -> list[str]:
    options = ["--name", plan.name, "--state-dir", str(plan.state_dir), "--port-base", str(plan.port_base)]
    return [sys.executable, "-m", "mooring.lab.cli", words[0], *options, *words[1:]]


def mooring(plan: LabPlan, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(plan, *words), capture_output=True, text=True, timeout=100)


def test_up_serves_every_part_and_down_leaves_nothing(plan: LabPlan) -> None:
    came_up = mooring(plan, "up")
    assert came_up.returncode == 0, came_up.stderr
    told = mooring(plan, "status", "--json")
    parts = json.loads(told.stdout)
    assert told.returncode == 0, [part for part in parts if not part["serves"]]
    assert {"marathon", "dockerd", "bind", "haproxy", "nginx", "redis", "prometheus", "cmdb", "doors"} <= {
        part["part"] for part in parts
    }
    again = mooring(plan, "up")
    assert (again.returncode, "already up" in again.stdout) == (0, True)
    inside = mooring(plan, "exec", "agent-2", "--", "sh", "-c", "hostname; ovs-vsctl list-br; exit 5")
    assert (inside.returncode, inside.stdout.split()) == (5, ["agent-2", "br-mooring"])
    assert remains(plan), "the proof of absence must be able to fail"
    assert mooring(plan, "down").returncode == 0
    assert remains(plan) == []
    assert "was not up" in mooring(plan, "down").stdout


def test_two_labs_live_side_by_side(plan: LabPlan) -> None:
    other = fresh_plan("twin")
    try:
        asyncio.run(lifecycle.up(plan))
        asyncio.run(lifecycle.up(other))
        lifecycle.down(other)
        assert remains(other) == []
        assert all(part.serves for part in asyncio.run(lifecycle.status(plan)))
    finally:
        lifecycle.down(other)


# Two kills fall into each stretch of `up`, whatever the machine's speed: the fractions are of the time
# that an undisturbed `up` takes here and now.
@pytest.mark.parametrize("part", range(4))
def test_killed_up_leaves_nothing_after_down(plan: LabPlan, part: int) -> None:
    began = time.monotonic()
    assert mooring(plan, "up").returncode == 0
    whole = time.monotonic() - began
    lifecycle.down(plan)
    for fraction in (random.uniform(part, part + 1) / 4, random.uniform(part, part + 1) / 4):
        process = subprocess.Popen(command(plan, "up"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(whole * fraction)  # the kill is meant to hit at any moment
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        lifecycle.down(plan)
        assert remains(plan) == [], f"killed after {fraction:.2f} of {whole:.2f} s"


def test_up_clears_what_a_killed_up_has_left(plan: LabPlan) -> None:
    process = subprocess.Popen(command(plan, "up"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (plan.pid_dir / "machine-room").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    came_up = mooring(plan, "up")
    assert came_up.returncode == 0, came_up.stderr
    assert mooring(plan, "status").returncode == 0


def test_commands_exclude_each_other(plan: LabPlan) -> None:
    with subprocess.Popen(command(plan, "up"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not plan.marker.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        with pytest.raises(LabError, match="another `mooring lab` command"):
            lifecycle.down(plan)
        process.communicate()
    assert process.returncode == 0


def test_broken_lab_is_named_part_by_part(plan: LabPlan) -> None:
    asyncio.run(lifecycle.up(plan))
    pid = supervise.pid_of(plan, "redis")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(LabError, match=r"broken: redis \(process has ended; see .*redis\.log\)"):
        asyncio.run(lifecycle.up(plan))
    told = mooring(plan, "status")
    assert told.returncode == 3
    assert "redis.log" in "".join(told.stdout.split())


def test_part_that_cannot_start_is_named_with_its_log(plan: LabPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    write = edges.write_configs

    def write_wrong(into: LabPlan) -> None:
        write(into)
        (into.haproxy_dir / "haproxy.cfg").write_text("nonsense\n")

    monkeypatch.setattr(edges, "write_configs", write_wrong)
    with pytest.raises(LabError, match=r"haproxy ended with status 1 .*haproxy\.log: .*"):
        asyncio.run(lifecycle.up(plan))
    lifecycle.down(plan)
    assert remains(plan) == []


def test_foreign_directory_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    plan = LabPlan("foreign", tmp_path, fresh_plan("x").port_base)
    with pytest.raises(LabError, match="holds something that is no lab"):
        asyncio.run(lifecycle.up(plan))
    with pytest.raises(LabError, match="holds something that is no lab"):
        lifecycle.down(plan)
    assert precious.read_text() == "mine"


def test_another_labs_directory_is_refused(plan: LabPlan) -> None:
    plan.state_dir.mkdir()
    plan.marker.write_text(json.dumps({**plan.remember(), "complete": False}))
    other = LabPlan("other", plan.state_dir, plan.port_base)
    with pytest.raises(LabError, match=f"belongs to lab {plan.name}"):
        lifecycle.down(other)
    assert plan.marker.exists()


def test_port_in_use_is_named(plan: LabPlan) -> None:
    with socket.create_server(("127.0.0.1", plan.dns_port)):
        refused = mooring(plan, "up")
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        f"mooring lab: ports in use on 127.0.0.1: {plan.dns_port} (bind); give another --port-base"
    )


def test_missing_packages_and_missing_root_are_one_line(
    plan: LabPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    absent = {"named", "ovs-vsctl", "ovsdb-server"}
    monkeypatch.setattr(
        shutil, "which", lambda name, path=None: None if name in absent else which(name, path=path)
    )
    with pytest.raises(LabError, match=r"apt-get install --no-install-recommends bind9 openvswitch-switch$"):
        lifecycle.check_machine(plan)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        lifecycle.check_machine(plan)
    monkeypatch.undo()
