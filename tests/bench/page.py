"""Writes the results of the last benchmarks into docs/benchmarks.md: `make bench-page`.

The page holds no figure that did not come from a file in build/bench, and says on what machine they
were taken.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: written by `make bench-page` -->\n", "<!-- end of results -->"


def machine() -> str:
    """What these numbers were taken on."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores, {memory:.0f} GB, Linux {kernel}, Python {platform.python_version()}"


def results() -> Iterator[str]:
    """A table for each file of results."""
    for file in sorted((ROOT / "build" / "bench").glob("*.json")):
        yield f"\n### {file.stem}\n\n| key | value |\n|---|---:|\n"
        for key, value in json.loads(file.read_text()).items():
            yield f"| `{key}` | {value:.4g} |\n" if isinstance(value, float) else f"| `{key}` | {value} |\n"


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    body = f"\nTaken on a virtual machine with {machine()}.\n" + "".join(results()) + "\n"
    PAGE.write_text(before + BEGIN + body + END + after)


if __name__ == "__main__":
    main()
