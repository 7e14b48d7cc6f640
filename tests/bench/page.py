"""Writes the results of the last benchmarks into the documentation: `make bench-page`.

All of them go into docs/benchmarks.md, the table of the stream readers also into decision 001, which rests
on it.  Neither holds a figure between its marks that did not come from a file in build/bench, and both say
on what machine they were taken.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "bench"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: written by `make bench-page` -->\n", "<!-- end of results -->"
STREAM_DECISION = ROOT / "docs" / "decisions" / "001-own-stream-reader.md"
COMPARED = ("aiohttp", "aiohttp-sse-client", "httpx", "httpx-sse", "msgspec")
STREAM_COLUMNS = {
    "ours in C": "c",
    "ours in Python": "python",
    "aiohttp-sse-client": "aiohttp_sse_client",
    "same, 16 MiB buffer": "aiohttp_sse_client_roomy",
    "httpx-sse": "httpx_sse",
}
STREAM_ROWS = {
    "405 bytes, framing": ("small_us", "", "µs"),
    "405 bytes, framing over a socket": ("small_us", "_socket", "µs"),
    "405 bytes, framing and decoding": ("small_us", "_decoded", "µs"),
    "5 MB, framing": ("big_ms", "", "ms"),
    "5 MB, framing over a socket": ("big_ms", "_socket", "ms"),
    "5 MB, framing and decoding": ("big_ms", "_decoded", "ms"),
}

Results = dict[str, float | None]


def machine() -> str:
    """What these numbers were taken on."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores, {memory:.0f} GB, Linux {kernel}, Python {platform.python_version()}"


def results() -> Iterator[str]:
    """A table for each file of results."""
    for file in sorted(RESULTS.glob("*.json")):
        yield f"\n### {file.stem}\n\n| key | value |\n|---|---:|\n"
        for key, value in json.loads(file.read_text()).items():
            yield f"| `{key}` | {_plain(value)} |\n"


def _plain(value: float | None) -> str:
    if value is None:
        return "fails"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def stream_table(numbers: Results, failures: Mapping[str, str] | None = None) -> str:
    """The comparison of stream readers: a row for each measurement, a column for each client.

    `failures` names, by key, the errors to show where a number is None.
    """
    heads = [f"{'per event':<33}", *(f"{head:>20}" for head in STREAM_COLUMNS), f"{'ratio':>7}"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(STREAM_COLUMNS) + 1) + "|"]
    for row, (stem, way, unit) in STREAM_ROWS.items():
        keys = [f"{stem}_{client}{way}" for client in STREAM_COLUMNS.values()]
        cells = [_cell(numbers, key, unit, (failures or {}).get(key, "fails")) for key in keys]
        lines.append("| " + " | ".join([f"{row:<33}", *cells, _ratio(numbers, stem, way)]) + " |")
    return "\n".join(lines)


def _cell(numbers: Results, key: str, unit: str, failure: str) -> str:
    if key not in numbers:
        return f"{'':>20}"
    value = numbers[key]
    text = failure if value is None else f"{value:#.3g}".removesuffix(".") + f" {unit}"
    return f"{text:>20}"


def _ratio(numbers: Results, stem: str, way: str) -> str:
    """aiohttp-sse-client to ours in C; where it only works with the larger buffer, with that."""
    ours = numbers.get(f"{stem}_c{way}")
    plain = numbers.get(f"{stem}_aiohttp_sse_client{way}")
    theirs = plain or numbers.get(f"{stem}_aiohttp_sse_client_roomy{way}")
    return f"{theirs / ours:7.1f}" if ours and theirs else f"{'':>7}"


def circumstances(numbers: Results) -> str:
    """How and on what the stream readers were measured."""
    versions = ", ".join(f"{name} {version(name)}" for name in COMPARED)
    return f"Medians of {numbers['rounds']} rounds on a virtual machine with {machine()}; {versions}."


def stream_summary() -> str:
    """The table of the last run, with its circumstances."""
    numbers = json.loads((RESULTS / "stream.json").read_text())
    return f"\n{circumstances(numbers)}\n\n{stream_table(numbers)}\n\n"


def put(page: Path, body: str) -> None:
    """Replace what stands between the marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + BEGIN + body + END + after)


def main() -> None:
    put(PAGE, f"\nTaken on a virtual machine with {machine()}.\n" + "".join(results()) + "\n")
    if (RESULTS / "stream.json").exists():
        put(STREAM_DECISION, stream_summary())


if __name__ == "__main__":
    main()
