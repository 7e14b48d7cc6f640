"""Commands of apps that take their time: they harm neither the other operations nor their own container."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import probing, reloads

from .rig import HostRig
from .test_files import writing

pytestmark = pytest.mark.root

# Leaves a line for each time it was begun, and ends with the code that it finds in a file.
WAITING = [
    "sh",
    "-c",
    "echo begun >> /tmp/begun; while ! cat /tmp/code; do sleep 0.05; done; exit $(cat /tmp/code)",
]


def begun(rig: HostRig, container: str) -> int:
    """How many times the command was begun."""
    return len(rig.inside(container, "cat", "/tmp/begun").split())


def after_its_end(rig: HostRig, container: str, code: int, order: dict[str, Any]) -> dict[str, Any]:
    """Let the command end, and ask until the module knows."""
    rig.inside(container, "sh", "-c", f"echo {code} > /tmp/code.new; ln /tmp/code.new /tmp/code")
    deadline = time.monotonic() + 10
    while "has not ended" in (result := rig.do(order)[0])["reason"]:
        assert time.monotonic() < deadline, result
    return result


def slow(task: str, content: str = "one", **changes: Any) -> dict[str, Any]:
    return writing(task, content, **{"command": WAITING, "timeout_s": 0.4, **changes})


def test_seven_commands_that_hang_cost_the_others_nothing(rig: HostRig) -> None:
    hanging = [rig.container() for _ in range(7)]
    (good, inside), (wired, _) = rig.container(), rig.container()
    command = ["sh", "-c", "echo begun >> /tmp/begun; sleep 60"]
    orders = [writing(task, "one", command=command) for task, _ in hanging]
    attach = {"op": "attach", "id": "a", "task_id": wired, "app": "/s", "slot": 0, "instance": "slow",
              "address": "10.64.3.77", "prefix": 22, "generation": 1}  # fmt: skip
    probe = {"op": "probe", "id": "p", "task_id": wired, "address": "10.64.3.77", "ports": [8080]}
    operations = [*orders, writing(good, "x", command=["touch", "/tmp/told"]), probe, attach]
    for longest_s in (12.0, 4.0):
        before = time.monotonic()
        *late, written, probed, attached = rig.do(*operations)
        assert time.monotonic() - before < longest_s
        assert [result["status"] for result in late] == ["retry"] * 7
        assert (written["status"], probed["status"], attached["status"]) == ("done",) * 3
    assert all("has not ended" in result["reason"] for result in late)
    assert [begun(rig, container) for _, container in hanging] == [1] * 7
    assert rig.inside(inside, "cat", "/etc/app/db.conf") == "x"


def test_a_command_that_ends_well_later_is_a_telling(rig: HostRig) -> None:
    task, container = rig.container()
    [result] = rig.do(slow(task))
    assert (result["status"], "did not end within 0.4 s" in result["reason"]) == ("retry", True)
    [result] = rig.do(slow(task))
    assert (result["status"], "has not ended" in result["reason"]) == ("retry", True)
    result = after_its_end(rig, container, 0, slow(task))
    assert (result["status"], result.get("reloaded")) == ("done", True), result
    assert not rig.do(slow(task))[0]["changed"]
    assert begun(rig, container) == 1


def test_a_command_that_fails_later_is_told_of_and_begun_again(rig: HostRig) -> None:
    task, container = rig.container()
    rig.do(slow(task))
    result = after_its_end(rig, container, 3, slow(task))
    assert (result["status"], "ended with 3" in result["reason"]) == ("retry", True), result
    assert begun(rig, container) == 1
    rig.do(slow(task))
    assert begun(rig, container) == 2


def test_news_wait_for_the_command_that_runs(rig: HostRig) -> None:
    task, container = rig.container()
    rig.do(slow(task))
    [result] = rig.do(slow(task, "two"))
    assert (result["status"], begun(rig, container)) == ("retry", 1)
    assert rig.inside(container, "cat", "/etc/app/db.conf") == "two"
    assert after_its_end(rig, container, 0, slow(task, "two"))["reloaded"]
    assert begun(rig, container) == 2


def test_patience_with_a_command_ends(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    task, container = rig.container()
    rig.do(slow(task))
    monkeypatch.setattr(reloads, "PATIENCE_S", 0.0)
    rig.do(slow(task))
    assert begun(rig, container) == 2


def test_a_restart_forgets_the_command_that_ran(rig: HostRig) -> None:
    task, container = rig.container()
    rig.do(slow(task))
    rig.docker("restart", "-t", "0", container)
    rig.do(slow(task))
    assert begun(rig, container) == 2


def test_what_comes_when_the_time_is_used_up_comes_again(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, container = rig.container()
    probe = {"op": "probe", "id": "p", "task_id": task, "address": "10.64.3.78", "ports": [8080]}
    monkeypatch.setattr(reloads, "WRITES_S", 0.0)
    monkeypatch.setattr(probing, "PROBES_S", 0.0)
    written, probed = rig.do(writing(task, "one"), probe)
    assert (written["status"], "0 s for all writes of one call are used up" in written["reason"]) == (
        "retry",
        True,
    )
    assert (probed["status"], "0 s for all probes of one call are used up" in probed["reason"]) == (
        "retry",
        True,
    )
    assert rig.docker("exec", container, "cat", "/etc/app/db.conf", check=False) == ""


def test_a_command_that_prints_without_end_is_cut_off(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = rig.container()
    for script in ("while true; do echo a; sleep 0.05; done", "while true; do cat /workload; done"):
        [result] = rig.do(writing(task, script, command=["sh", "-c", script], timeout_s=1.0))
        assert (result["status"], "did not end" in result["reason"]) == ("retry", True)
        rig.docker("restart", "-t", "0", rig.docker("ps", "-q", "--filter", f"label=MESOS_TASK_ID={task}"))
