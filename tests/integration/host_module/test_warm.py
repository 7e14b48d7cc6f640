"""Plays that stand by, and the program on the host: what they do, and what happens when one is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.handlers.ansible import AnsibleRunner
from mooring.handlers.helper import helper_version, write_archive
from mooring.handlers.plays import Flying, HostUnreachable, PlayFailed
from mooring.handlers.warm.runner import SERVER, WarmRunner

from .rig import BRIDGE, HostRig
from .test_runner import inventory, marked_processes, writing

__all__ = ["inventory"]  # a fixture

pytestmark = pytest.mark.root

OBSERVE = [{"op": "observe", "id": "o"}]


class Warm:
    """A runner with a program directory of its own, and what it was told of the program."""

    def __init__(self, hosts: Path, directory: Path, linger_s: float = 20.0) -> None:
        self.directory = directory
        self.told: list[tuple[str, str]] = []
        self.flying = Flying(hosts, "mooring", BRIDGE, str(directory), grace_s=2.0)
        self.runner = WarmRunner(self.flying, linger_s=linger_s, helped=self._helped)

    def _helped(self, host: str, version: str) -> None:
        self.told.append((host, version))

    def plays(self) -> list[int]:
        """Process ids of the server and its plays, workers included."""
        return [pid for pid in _pids() if SERVER in _words(pid) and str(self.runner._work_dir) in _words(pid)]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture
async def warm(inventory: Path, tmp_path: Path) -> AsyncIterator[Warm]:
    """A runner that is closed afterwards."""
    made = Warm(inventory, tmp_path / "program")
    yield made
    await made.runner.close()


async def observed(warm: Warm, host: str = "good") -> None:
    [seen] = await warm.runner.run(host, OBSERVE, 1)
    assert (seen["id"], seen["status"], seen["bridge"]) == ("o", "done", BRIDGE)


async def install(warm: Warm) -> None:
    single = AnsibleRunner(warm.flying)
    try:
        await single.install("good")
    finally:
        await single.close()


async def test_the_program_does_what_the_module_does_once_it_is_installed(rig: HostRig, warm: Warm) -> None:
    await observed(warm)
    await install(warm)
    await observed(warm)  # the same runner: no play that has seen the host without the program goes on
    assert warm.told == [("good", ""), ("good", helper_version())]


async def test_a_program_of_another_version_is_not_used(rig: HostRig, warm: Warm, tmp_path: Path) -> None:
    playbooks = tmp_path / "playbooks"
    package = playbooks / "module_utils" / "mooring_host"
    package.mkdir(parents=True)
    real = warm.flying.playbook_dir / "module_utils" / "mooring_host"
    for name in ("__init__.py", "install.py"):
        (package / name).write_bytes((real / name).read_bytes())
    (package / "program.py").write_text('def main(words):\n    print(\'{"version": "old"}\')\n    return 3\n')
    archive = tmp_path / "old.pyz"
    version = write_archive(archive, playbooks)
    done = await asyncio.create_subprocess_exec(sys.executable, "-I", str(archive), str(warm.directory))
    assert await done.wait() == 0
    assert version != helper_version()
    await observed(warm)
    assert warm.told == [("good", "")]


async def test_a_play_takes_one_flight_after_the_other(rig: HostRig, warm: Warm) -> None:
    await install(warm)
    await warm.runner.prepare("good")
    for _ in range(3):
        await observed(warm)
    # The server, the play and its worker: nothing was forked for the second and the third flight.
    assert len(warm.plays()) == 3


async def test_plays_that_nobody_needs_any_more_end(rig: HostRig, inventory: Path, tmp_path: Path) -> None:
    warm = Warm(inventory, tmp_path / "program", linger_s=0.2)
    try:
        await observed(warm)
        async with asyncio.timeout(20):
            while len(warm.plays()) > 1:
                await asyncio.sleep(0.05)
        await observed(warm)
    finally:
        await warm.runner.close()


async def test_two_flights_of_a_host_do_not_wait_for_each_other(rig: HostRig, warm: Warm) -> None:
    task, _ = rig.container()
    slow = writing(task, "x", command=["sleep", "90"], timeout_s=6.0)
    flight = asyncio.create_task(warm.runner.run("good", [slow], 1))
    await observed(warm)
    assert not flight.done()
    flight.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flight


async def test_a_host_that_cannot_be_reached_says_so_in_a_prepared_play(warm: Warm) -> None:
    await warm.runner.prepare("away")
    with pytest.raises(HostUnreachable, match="away"):
        await warm.runner.run("away", OBSERVE, 1)


async def test_plays_that_end_together_do_not_take_the_server_along(warm: Warm) -> None:
    for _ in range(3):
        flights = [warm.runner.run("away", OBSERVE, 1) for _ in range(8)]
        outcomes = await asyncio.gather(*flights, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {HostUnreachable}


async def test_a_server_that_dies_costs_its_flights_and_no_more(
    rig: HostRig, warm: Warm, tmp_path: Path
) -> None:
    flight = asyncio.create_task(warm.runner.run("hangs", OBSERVE, 1))
    while not (tmp_path / "begun").exists():
        await asyncio.sleep(0.05)
    server = min(warm.plays())
    os.kill(server, signal.SIGKILL)
    with pytest.raises(PlayFailed, match="the Ansible server has ended"):
        await flight
    await observed(warm)
    deadline = time.monotonic() + 20
    while marked_processes(warm.runner):  # what the dead server had started
        assert time.monotonic() < deadline, marked_processes(warm.runner)
        await asyncio.sleep(0.05)


async def test_nothing_outlives_a_daemon_that_is_killed(
    rig: HostRig, inventory: Path, tmp_path: Path
) -> None:
    script = tmp_path / "daemon.py"
    script.write_text(
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from mooring.handlers.plays import Flying\nfrom mooring.handlers.warm.runner import WarmRunner\n"
        "async def main():\n"
        "    runner = WarmRunner(Flying(Path(sys.argv[1]), 'mooring', 'br-mooring', grace_s=1.0))\n"
        "    print(runner._work_dir, flush=True)\n"
        "    await runner.prepare('good')\n"
        "    await runner.run('hangs', [{'op': 'observe', 'id': 'o'}], 1)\n"
        "asyncio.run(main())\n"
    )
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(inventory), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    place = (await daemon.stdout.readline()).decode().strip()
    while not (tmp_path / "begun").exists():
        await asyncio.sleep(0.05)
    daemon.kill()
    await daemon.wait()
    async with asyncio.timeout(20):
        while left := [pid for pid in _pids() if place in _words(pid) or _marked(pid, place)]:
            await asyncio.sleep(0.05)
    assert not left


def _marked(pid: int, place: str) -> bool:
    try:
        return f"MOORING_FLIGHT={place}/".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
