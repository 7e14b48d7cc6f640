"""Files written into real containers, some of which do their best to lead the write astray."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from .rig import HostRig, until

pytestmark = pytest.mark.root


def writing(task: str, content: str, path: str = "/etc/app/db.conf", **changes: Any) -> dict[str, Any]:
    """A write order."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {"op": "write", "id": "w", "task_id": task, "path": path, "content": content, "mode": "0640",
            "command": None, "signal": None, "digest": digest, **changes}  # fmt: skip


def test_a_file_is_written_whole_once(rig: HostRig) -> None:
    task, container = rig.container()
    [result] = rig.do(writing(task, "host=ä 10.64.0.2\n"))
    assert (result["status"], result["changed"], result["reloaded"]) == ("done", True, False)
    assert rig.inside(container, "cat", "/etc/app/db.conf") == "host=ä 10.64.0.2"
    assert rig.inside(container, "sh", "-c", "ls -la /etc/app").count("\n") == 3
    assert "-rw-r-----" in rig.inside(container, "ls", "-l", "/etc/app/db.conf")
    assert not rig.do(writing(task, "host=ä 10.64.0.2\n"))[0]["changed"]
    assert rig.do(writing(task, "host=ä 10.64.0.2\n", mode="0644"))[0]["changed"]
    assert "-rw-r--r--" in rig.inside(container, "ls", "-l", "/etc/app/db.conf")


def test_the_process_is_told_only_when_the_content_changed(rig: HostRig) -> None:
    task, container = rig.container()
    command = ["sh", "-c", 'echo "$0" >> /tmp/told', "a b; $(rm -rf /)"]
    asked = writing(task, "one", command=command)
    assert rig.do(asked)[0]["reloaded"]
    assert not rig.do(asked)[0]["reloaded"]
    assert rig.do(writing(task, "two", command=command))[0]["reloaded"]
    assert rig.inside(container, "cat", "/tmp/told").splitlines() == ["a b; $(rm -rf /)"] * 2


def test_a_signal_reaches_the_first_process(rig: HostRig) -> None:
    task, container = rig.container()
    until(
        lambda: rig.docker("exec", container, "cat", "/www/index.html", check=False) == task, "the workload"
    )
    assert rig.do(writing(task, "one", signal="HUP"))[0]["reloaded"]
    until(lambda: rig.docker("exec", container, "cat", "/tmp/signals", check=False) == "told", "the signal")
    assert not rig.do(writing(task, "one", signal="HUP"))[0]["changed"]


def test_a_telling_that_failed_is_repeated_without_a_new_write(rig: HostRig) -> None:
    task, container = rig.container()
    asked = writing(task, "one", command=["sh", "-c", "echo tried >> /tmp/tried; cat /tmp/ready"])
    for _ in range(2):
        [result] = rig.do(asked)
        assert result["status"] == "retry"
        assert "can't open '/tmp/ready'" in result["reason"]
    rig.inside(container, "touch", "/tmp/ready")
    assert rig.do(asked)[0]["reloaded"]
    assert not rig.do(asked)[0]["reloaded"]
    assert rig.inside(container, "cat", "/tmp/tried").split() == ["tried"] * 3
    [result] = rig.do(writing(task, "two", command=["/no/such/program"]))
    assert result["status"] == "retry"


def test_a_command_that_does_not_end_is_given_up(rig: HostRig) -> None:
    task, _ = rig.container()
    [result] = rig.do(writing(task, "one", command=["sleep", "20"], timeout_s=0.5))
    assert (result["status"], "did not end within 0.5 s" in result["reason"]) == ("retry", True)


def test_a_restart_is_told_again(rig: HostRig) -> None:
    task, container = rig.container()
    asked = writing(task, "one", command=["sh", "-c", "echo told"])
    rig.do(asked)
    rig.docker("restart", "-t", "0", container)
    assert rig.do(asked)[0]["reloaded"]


@pytest.mark.parametrize("link", ["absolute", "relative", "file"])
def test_a_hostile_link_stays_inside_the_container(rig: HostRig, tmp_path: Path, link: str) -> None:
    task, container = rig.container()
    outside = tmp_path / "outside"
    outside.mkdir()
    if link == "file":
        rig.inside(container, "mkdir", "/etc/app")
        rig.inside(container, "ln", "-s", str(outside / "db.conf"), "/etc/app/db.conf")
    else:
        target = str(outside) if link == "absolute" else "../../../../../../.." + str(outside)
        rig.inside(container, "mkdir", "-p", str(outside))
        rig.inside(container, "ln", "-s", target, "/etc/app")
    [result] = rig.do(writing(task, "secret"))
    assert result["status"] == "done"
    assert rig.inside(container, "cat", "/etc/app/db.conf") == "secret"
    assert list(outside.iterdir()) == []


def test_a_magic_link_to_the_hosts_root_is_refused(rig: HostRig, tmp_path: Path) -> None:
    # With the host's processes in sight, /proc/PID/root of one of them would lead out of the container.
    task, container = rig.container(None, "--pid", "host")
    (tmp_path / "etc").mkdir()
    rig.inside(container, "ln", "-s", f"/proc/{os.getpid()}/root{tmp_path}/etc", "/etc/app")
    [result] = rig.do(writing(task, "secret"))
    assert result["status"] == "refused"
    assert list((tmp_path / "etc").iterdir()) == []


def test_odd_targets(rig: HostRig) -> None:
    task, container = rig.container()
    rig.inside(container, "mkdir", "-p", "/etc/odd/folder")
    rig.inside(container, "mkfifo", "/etc/odd/pipe")
    rig.inside(container, "touch", "/etc/odd/plain")
    [folder, pipe, below, proc] = rig.do(
        writing(task, "x", "/etc/odd/folder"),
        writing(task, "x", "/etc/odd/pipe"),
        writing(task, "x", "/etc/odd/plain/y"),
        writing(task, "x", "/proc/sys/kernel/x"),
    )
    assert (folder["status"], "directory" in folder["reason"]) == ("refused", True)
    assert pipe["status"] == "done"
    assert rig.inside(container, "cat", "/etc/odd/pipe") == "x"
    assert below["status"] == "refused"
    assert proc["status"] != "done"


def test_a_mounted_file_is_written_in_place_and_a_read_only_one_refused(rig: HostRig, tmp_path: Path) -> None:
    mounted = tmp_path / "db.conf"
    mounted.write_text("before, and longer than after")
    task, container = rig.container(None, "-v", f"{mounted}:/etc/app/db.conf")
    assert rig.do(writing(task, "after"))[0]["status"] == "done"
    assert mounted.read_text() == "after"
    assert rig.inside(container, "sh", "-c", "ls -A /etc/app") == "db.conf"
    task, _ = rig.container(None, "-v", f"{mounted}:/etc/app/db.conf:ro")
    [result] = rig.do(writing(task, "again"))
    assert (result["status"], mounted.read_text()) == ("refused", "after")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"digest": "0" * 64}, "digest"),
        ({"path": "etc/app"}, "absolute"),
        ({"path": "/etc/../app"}, "absolute"),
        ({"path": "/etc/app/"}, "absolute"),
        ({"signal": "HUP; rm"}, "signal"),
        ({"mode": "4755"}, "mode"),
        ({"command": "rm -rf /"}, "command"),
        ({"content": "x" * (1 << 20) + "y"}, "content"),
    ],
)
def test_what_cannot_be_meant_is_refused(rig: HostRig, changes: dict[str, Any], word: str) -> None:
    [result] = rig.do({**writing("any.task", "x"), **changes})
    assert (result["status"], word in result["reason"]) == ("refused", True)
