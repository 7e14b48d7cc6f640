"""Compares the twins on random inputs: `python -m tests.fuzz.differential --runs 100000 --seconds 60`.

The harnesses beside this module hold the C core against itself; this holds it, binding included, against the
implementation in Python.  Inputs are the corpora's files with random bytes and tokens put in, taken out and
moved, so what the harnesses found worth keeping is tried here too.  Each is fed to both twins whole and in
pieces.  A finding is written to build/fuzz and printed with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mooring.cext import _native, _pure, _pure_array
from tests.unit.cext_twins import cut, framing, splitting

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = Path("build/fuzz")
LIMITS = (1, 2, 3, 6, 10, 25, 64, 1000, 1 << 24)
WANTED = (None, (), ("a",), ("status_update_event", "a", "message", "\ufffd"))
KEYS = (None, "apps", "a", "")
SSE_TOKENS = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"data: ",
    b"event: a",
    b"id: ",
    b"retry: 1",
    b"\xef\xbb\xbf",
    b"\xff",
)
JSON_TOKENS = (b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b" ", b'"apps":[', b'"a":', b'"\\""', b"1")


def mutated(content: bytes, tokens: Sequence[bytes], rng: random.Random) -> bytes:
    """`content` with up to four small changes."""
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(content) + 1)
        other = rng.randrange(len(content) + 1)
        content = rng.choice(
            [
                content[:at] + rng.choice(tokens) + content[at:],
                content[:at] + content[at + rng.randrange(4) :],
                content[:at] + content[other : other + 20] + content[at:],
                content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
            ]
        )
    return content


def outcomes(name: str, content: bytes, rng: random.Random) -> list[Any]:
    """What each twin makes of the input, whole and cut. All of it must be equal."""
    pieces = cut(content, [rng.randrange(len(content) + 1) for _ in range(rng.randrange(1, 12))])
    limit = rng.choice(LIMITS)
    if name == "sse":
        wanted = rng.choice(WANTED)
        framers = (_pure.Framer, _native.Framer)
        return [framing(framer, cuts, limit, wanted) for framer in framers for cuts in ([content], pieces)]
    key = rng.choice(KEYS)
    splitters = (_pure_array.ArraySplitter, _native.ArraySplitter)
    return [splitting(splitter, cuts, key, limit) for splitter in splitters for cuts in ([content], pieces)]


def compare(name: str, tokens: Sequence[bytes], runs: int, until: float, seed: int) -> int:
    """How many inputs were tried. Exits with status 1 at the first on which the twins differ."""
    # The first three bytes speak to the harness.
    seeds = [path.read_bytes()[3:] for path in sorted((CORPUS / name).iterdir())]
    for number in itertools.count():
        if number == runs or time.monotonic() > until:
            return number
        rng = random.Random(f"{seed}-{name}-{number}")
        content = mutated(rng.choice(seeds), tokens, rng)
        found = outcomes(name, content, rng)
        if any(outcome != found[0] for outcome in found):
            FINDINGS.mkdir(parents=True, exist_ok=True)
            (FINDINGS / f"{name}-difference").write_bytes(content)
            sys.exit(f"{name}: the twins differ, seed {seed}, input {number}: {content!r}\n{found}")
    raise AssertionError("counting has no end")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the twins on random inputs.")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each machine")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most so long for each machine")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    for name, tokens in (("sse", SSE_TOKENS), ("array", JSON_TOKENS)):
        count = compare(name, tokens, options.runs, time.monotonic() + options.seconds, options.seed)
        print(f"twins of {name}: {count} inputs, seed {options.seed}, no difference")


if __name__ == "__main__":
    main()
