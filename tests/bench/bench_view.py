"""The largest Marathon there is: `python -m tests.bench.bench_view [APPS [TASKS_PER_APP [SECONDS]]]`.

A synthetic Marathon (5,000 apps, 50,000 tasks) stands in this process; the daemon, with sinks that never
answer, is a process of its own.  Two measurements:

Complete.  From starting the daemon's process to its log line "view complete": every app and task merged,
all labels read, workers let go.  The longest stall is the longest turn of its event loop, as the daemon
measures and exports it.

Storm.  Then 5,000 status events a second for a minute, while no sink answers, and the daemon is scraped as
Prometheus would.  How far it is behind is asked at every group of events sent (each 5 ms): sent here less
merged there.

Prints a table and writes `build/bench/view.json`; `docs/benchmarks.md` explains the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import mmap
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.synthetic_marathon import HOSTS, SyntheticMarathon

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "build" / "bench" / "view.json"
PER_SECOND = 5_000
SCRAPE_S = 15.0
LEAST_RATE = 0.98 * PER_SECOND  # below it the daemon held up the sender, and `max_behind` says too little
TARGETS = {"complete_s": 6.0, "rss_mb": 400.0, "longest_stall_ms": 50.0, "max_behind": 500.0}


@dataclass(slots=True)
class Daemon:
    """The daemon's process, and the doors through which it is measured."""

    process: asyncio.subprocess.Process
    log: Path
    portal: str
    started: float
    merged: ctypes.c_uint64

    async def until_logged(self, event: str) -> float:
        """Seconds from the start to that log line, which is looked for every 5 ms."""
        with self.log.open() as lines:
            while self.process.returncode is None:
                for line in lines:
                    if f'"event": "{event}"' in line:
                        return time.monotonic() - self.started
                await asyncio.sleep(0.005)
        raise RuntimeError(f"the daemon ended before it said {event!r}:\n{self.log.read_text()[-2000:]}")

    def behind(self, sent: int) -> int:
        """Events sent and not merged yet."""
        return sent - self.merged.value

    def peak_rss_mb(self) -> float:
        """The most memory it ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    async def metrics(self) -> dict[str, float]:
        """What it exports, without labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.portal}/metrics") as answer:
            text = await answer.text()
        families = text_string_to_metric_families(text)
        return {sample.name: sample.value for family in families for sample in family.samples}


@contextlib.asynccontextmanager
async def daemon_of(marathon: SyntheticMarathon) -> AsyncIterator[Daemon]:
    """The daemon, running; killed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        counter = directory / "merged"
        counter.write_bytes(bytes(8))
        port = _free_port()
        config = _configuration(directory, marathon.url, port)
        with counter.open("r+b") as file:
            shared = ctypes.c_uint64.from_buffer(mmap.mmap(file.fileno(), 8))
        log = directory / "log"
        started = time.monotonic()
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.bench.stalled_daemon", str(config), str(counter),
                cwd=ROOT, stderr=stderr,
            )  # fmt: skip
        try:
            yield Daemon(process, log, f"http://127.0.0.1:{port}", started, shared)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def _configuration(directory: Path, marathon: str, port: int) -> Path:
    (directory / "inventory").write_text("\n".join(HOSTS))
    hosts = "\n".join(f'"{host}" = "192.0.2.{number + 1}"' for number, host in enumerate(HOSTS))
    file = directory / "mooring.toml"
    file.write_text(f"""
store = "{directory}/mooring.db"
[hosts]
{hosts}
[marathon]
endpoints = ["{marathon}"]
[pools.main]
network = "10.64.0.0/14"
[ansible]
inventory = "{directory}/inventory"
[nginx]
root = "{directory}/nginx"
pid_file = "{directory}/nginx.pid"
status_socket = "{directory}/nginx.sock"
[portal]
port = {port}
[control]
socket = "{directory}/control.sock"
""")
    return file


async def storm(daemon: Daemon, marathon: SyntheticMarathon, seconds: float) -> dict[str, float]:
    """The second measurement."""
    before = await daemon.metrics()
    worst = 0

    def sent(total: int) -> None:
        nonlocal worst
        worst = max(worst, daemon.behind(total))

    scraping = asyncio.create_task(_scrape(daemon))
    began = time.monotonic()
    await marathon.send(PER_SECOND, seconds, sent)
    took = time.monotonic() - began
    assert marathon.sent / took >= LEAST_RATE, f"only {marathon.sent / took:.0f} events a second were sent"
    async with asyncio.timeout(30):
        while daemon.behind(marathon.sent):
            await asyncio.sleep(0.01)
    scraping.cancel()
    after = await daemon.metrics()
    lost = after["mooring_stream_reconnects_total"] - before["mooring_stream_reconnects_total"]
    assert lost == 0, "the stream was lost on the way, so nothing was measured"
    return {
        "max_behind": worst,
        "storm_events_per_s": marathon.sent / took,
        "storm_cpu_share": (after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) / took,
        "storm_longest_stall_ms": 1000 * after["mooring_event_loop_longest_turn_seconds"],
        "storm_listings": marathon.listings,
    }


async def _scrape(daemon: Daemon) -> None:
    while True:
        await asyncio.sleep(SCRAPE_S)
        await daemon.metrics()


async def measure(apps: int, tasks_per_app: int, seconds: float) -> dict[str, float]:
    """Both measurements in one life of the daemon."""
    marathon = SyntheticMarathon(apps, tasks_per_app)
    await marathon.start()
    async with daemon_of(marathon) as daemon:
        complete_s = await daemon.until_logged("view complete")
        seen = await daemon.metrics()
        result: dict[str, float] = {
            "complete_s": complete_s,
            "rss_mb": daemon.peak_rss_mb(),
            "longest_stall_ms": 1000 * seen["mooring_event_loop_longest_turn_seconds"],
        }
        result |= await storm(daemon, marathon, seconds)
        result["storm_rss_mb"] = daemon.peak_rss_mb()
    await marathon.stop()
    return {"apps": apps, "tasks": apps * tasks_per_app, **result}


def main() -> None:
    given = [int(word) for word in sys.argv[1:4]]
    apps, tasks_per_app, seconds = given + [5_000, 10, 60][len(given) :]
    result = asyncio.run(measure(apps, tasks_per_app, seconds))
    for key, value in result.items():
        target = TARGETS.get(key)
        verdict = (
            "" if target is None else f"   at most {target:g}: {'met' if value <= target else 'NOT MET'}"
        )
        print(f"{key:24} {value:12.2f}{verdict}")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
