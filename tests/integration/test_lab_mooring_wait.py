"""`mooring-wait` holds a command back until the container has its address, in any shell an image may have."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(30)]

SCRIPT = Path(__file__).parents[2] / "deploy" / "mooring-wait"
SHELLS = [["busybox", "sh"], ["dash"], ["bash", "--posix"]]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def waiting(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    if shutil.which(request.param[0]) is None:
        raise AssertionError(f"install {request.param[0]}: every shell must be tried")
    argv = ["unshare", "--net", *request.param, str(SCRIPT), "echo", "went on with", "two words"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until_inside(process.pid)
    yield process
    process.kill()
    process.communicate()


def until_inside(pid: int) -> None:
    """Wait until the process has left our network namespace and become the script."""
    ours, give_up = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
    while True:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if os.readlink(f"/proc/{pid}/ns/net") != ours and command.split(b"\0")[0] != b"unshare":
            return
        assert time.monotonic() < give_up
        time.sleep(0.01)


def until_caught(pid: int, number: signal.Signals) -> None:
    """Wait until the process has a handler for the signal."""
    give_up = time.monotonic() + 10
    while True:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        if int(status["SigCgt"], 16) & (1 << (number - 1)):
            return
        assert time.monotonic() < give_up
        time.sleep(0.01)


def inside(process: subprocess.Popen[str], *commands: str) -> None:
    for command in commands:
        argv = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", *command.split()]
        subprocess.run(argv, check=True, timeout=5)


def assert_still_waiting(process: subprocess.Popen[str]) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.4)


def test_goes_on_only_with_an_address_on_a_link_that_is_up(waiting: subprocess.Popen[str]) -> None:
    inside(waiting, "link set lo up", "addr add 10.9.9.9/32 dev lo")
    assert_still_waiting(waiting)
    inside(waiting, "link add eth0 type veth peer name far", "addr add 10.64.0.5/22 dev eth0")
    assert_still_waiting(waiting)
    inside(waiting, "link set far up", "link set eth0 up")
    output, _ = waiting.communicate(timeout=5)
    assert (waiting.returncode, output) == (0, "went on with two words\n")


def test_a_global_ipv6_address_that_is_not_tentative_is_one_too(waiting: subprocess.Popen[str]) -> None:
    inside(waiting, "link set lo up", "addr add fd00::1/128 dev lo")
    inside(waiting, "link add eth0 type veth peer name far", "link set far up", "link set eth0 up")
    assert_still_waiting(waiting)  # it has a link-local address
    inside(waiting, "addr add fd00:64::5/64 dev eth0 nodad")
    output, _ = waiting.communicate(timeout=5)
    assert (waiting.returncode, output) == (0, "went on with two words\n")


def test_link_local_address_does_not_count(waiting: subprocess.Popen[str]) -> None:
    inside(
        waiting,
        "link add eth0 type veth peer name far",
        "addr add 169.254.7.7/16 dev eth0 scope link",
        "link set far up",
        "link set eth0 up",
    )
    assert_still_waiting(waiting)


def test_ends_on_sigterm(waiting: subprocess.Popen[str]) -> None:
    until_caught(waiting.pid, signal.SIGTERM)
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=5)
    assert waiting.returncode == 143


def test_interface_that_is_down_at_first_uses_no_processor_time() -> None:
    argv = ["unshare", "--net", "busybox", "sh", str(SCRIPT), "true"]
    with subprocess.Popen(argv) as process:
        try:
            until_inside(process.pid)
            before = spent(process.pid)
            time.sleep(2)  # the measurement
            assert spent(process.pid) - before < 0.1
        finally:
            process.kill()


def spent(pid: int) -> float:
    """Processor seconds of a process and the children it has collected."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
