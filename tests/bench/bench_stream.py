"""Our stream reader beside aiohttp-sse-client and httpx-sse: `python -m tests.bench.bench_stream`.

Speed.  The same bytes, in the same pieces of 64 KiB, are cut into events in memory, cut and decoded in
memory, and read over a loopback socket that another process fills: 20,000 status updates of 405 bytes,
and one deployment of 5 MB.  Medians of several rounds; in each round every client has its turn, so that
a noisy moment hits all of them, and finds no memory that the one before has warmed: a daemon meets a
large event too rarely to have five warm megabytes at hand.  `stream_clients` says how each is used.

On the big event aiohttp-sse-client fails as it comes out of the box.  What it would take with a read
buffer of 16 MiB is measured as well, under `aiohttp_sse_client_roomy`.

Faults.  Who goes on after what: `stream_faults`.

Prints tables and writes `build/bench/stream.json`; `docs/benchmarks.md` explains the keys.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import statistics
from collections.abc import Awaitable
from pathlib import Path

import structlog

from mooring.cext import IMPLEMENTATION
from mooring.cext import Framer as ChosenFramer
from mooring.cext._pure import Framer as PureFramer
from tests.bench import stream_faults
from tests.bench.page import Results, circumstances, stream_table
from tests.bench.stream_clients import ROOMY, Client, Ours, aiohttp_sse_client, httpx_sse
from tests.bench.stream_events import Sample, big, small
from tests.bench.stream_sender import Sender

REPORT = Path(__file__).parents[2] / "build" / "bench" / "stream.json"
ROUNDS = 15
RATIOS = {"framing_ratio": "", "socket_ratio": "_socket", "decoded_ratio": "_decoded"}
TARGETS = {"framing_ratio": 10.0, "socket_ratio": 4.0, "decoded_ratio": 3.0}
WAYS = ("", "_socket", "_decoded")


def clients() -> dict[str, Client]:
    """Who takes part in everything; ours in C only where it was built."""
    ours = {"c": Ours(ChosenFramer)} if IMPLEMENTATION == "c" else {}
    return {
        **ours,
        "python": Ours(PureFramer),
        "aiohttp_sse_client": aiohttp_sse_client(),
        "httpx_sse": httpx_sse(),
    }


class Measurement:
    """All rounds of one sample. A client that fails is left out of its later rounds."""

    def __init__(self, sender: Sender, contestants: dict[str, Client], unit: str, per_s: float) -> None:
        self._sender = sender
        self._clients = contestants
        self._stem = f"{sender.sample.name}_{unit}"
        self._scale = per_s / sender.sample.count
        keys = (f"{self._stem}_{name}{way}" for way in WAYS for name in contestants)
        self._took: dict[str, list[float]] = {key: [] for key in keys}
        self.failures: dict[str, str] = {}

    async def round(self) -> None:
        """Every client in every way, once."""
        for way in WAYS:
            for name, client in self._clients.items():
                await self._measure(f"{self._stem}_{name}{way}", client, way)

    async def _measure(self, key: str, client: Client, way: str) -> None:
        if key in self.failures:
            return
        _level()
        try:
            self._took[key].append(await self._turn(client, way) * self._scale)
        except AssertionError:
            raise
        except Exception as error:
            self.failures[key] = type(error).__name__

    def _turn(self, client: Client, way: str) -> Awaitable[float]:
        if way == "_socket":
            return client.over_socket(self._sender)
        return (client.decoded if way else client.in_memory)(self._sender.sample)

    def results(self) -> Results:
        """The median of each, None where it failed."""
        return {
            key: None if key in self.failures else round(statistics.median(took), 4)
            for key, took in self._took.items()
        }


def _level() -> None:
    """Let nobody clear away after the one before, or find the memory warm that it used."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc only
        trim(0)


async def verify(contestants: dict[str, Client], sample: Sample) -> None:
    """All clients must read the same text, or their times say nothing."""
    for name, client in contestants.items():
        assert await client.texts(sample) == list(sample.texts), f"{name} reads something else"


async def measure(senders: tuple[Sender, Sender]) -> tuple[Results, dict[str, str]]:
    """The results of all rounds, and the errors of those that failed, by key."""
    everyone = clients()
    roomy = {"aiohttp_sse_client_roomy": aiohttp_sse_client(ROOMY)}
    await verify(everyone, senders[0].sample)
    await verify({**everyone, "aiohttp_sse_client": roomy["aiohttp_sse_client_roomy"]}, senders[1].sample)
    measurements = (
        Measurement(senders[0], everyone, "us", 1e6),
        Measurement(senders[1], everyone | roomy, "ms", 1e3),
    )
    gc.freeze()
    for _ in range(ROUNDS):
        for measurement in measurements:
            await measurement.round()
    small_results, big_results = (measurement.results() for measurement in measurements)
    ratios = {name: ratio(small_results, way) for name, way in RATIOS.items()}
    failures = measurements[0].failures | measurements[1].failures
    keys = [f"{stem}_c{way}" for stem in ("small_us", "big_ms") for way in WAYS]
    not_built: Results = {} if "c" in everyone else dict.fromkeys(keys)
    failures |= dict.fromkeys(not_built, "not built")
    return not_built | small_results | big_results | ratios | {"rounds": ROUNDS}, failures


def ratio(results: Results, way: str) -> float | None:
    """How many times longer aiohttp-sse-client takes for a small event than ours in C."""
    ours, theirs = results.get(f"small_us_c{way}"), results.get(f"small_us_aiohttp_sse_client{way}")
    return round(theirs / ours, 2) if ours and theirs else None


def verdicts(results: Results) -> list[str]:
    """A line for each target."""
    lines = []
    for name, least in TARGETS.items():
        reached = results[name]
        met = reached is not None and reached >= least
        lines.append(f"{name} {reached} (at least {least:g}): {'met' if met else 'NOT met'}")
    failed = [way for way in WAYS if results.get(f"big_ms_c{way}") is None]
    lines.append(f"5 MB read by ours in C in every way: {'NOT met' if failed else 'met'}")
    return lines


def main() -> None:
    logging.disable(logging.CRITICAL)  # EventSource reports each fault, asyncio each torn connection
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with Sender(small()) as first, Sender(big()) as second:
        results, failures = asyncio.run(measure((first, second)))
    survivals, remarks = asyncio.run(stream_faults.survivals())
    print(circumstances(results), "", stream_table(results, failures), "", sep="\n")
    print(*remarks, "", *verdicts(results), sep="\n")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({**results, **survivals}, indent=2) + "\n")


if __name__ == "__main__":
    main()
