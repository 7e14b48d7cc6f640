"""Play seeds: `python -m tests.sim --seeds 2000`, or one alone: `python -m tests.sim --seed 1234`.

Ends with status 1 if a seed failed; each is told with the command that does the same thing again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.sim.seeds import Result, as_line, play, play_all, regressions, write_down

_PROGRESS_S = 5.0


def main() -> int:
    asked = _arguments()
    if asked.seed is not None:
        return _one(asked.seed)
    first = [] if asked.no_record else regressions()
    seeds = [*first, *range(asked.first, asked.first + asked.seeds)]
    failed: list[Result] = []
    progress = _Progress(len(seeds), quiet=asked.json)
    for result in play_all(seeds, asked.jobs):
        if result.reason and (result.promise or not asked.json):
            failed.append(result)
            progress.tell(f"seed {result.seed}: {result.reason}\n    again: make sim SEED={result.seed}")
            if not asked.no_record:
                write_down(result)
            if asked.stop:
                break
        progress.step(len(failed))
    if asked.json:
        print("\n".join(map(as_line, failed)))
        return 1 if failed else 0
    progress.end(failed)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many, after those that failed once")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone, with the end of its trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    parser.add_argument("--no-record", action="store_true", help="neither play nor write regression files")
    parser.add_argument("--json", action="store_true", help="only failed invariants, a line of JSON for each")
    return parser.parse_args()


def _one(seed: int) -> int:
    result = play(seed)
    if result.reason:
        print(f"{result.trace}\n\nseed {seed} fails: {result.reason}")
        return 1
    print(f"seed {seed}: all is well ({result.seconds:.2f} s)")
    return 0


class _Progress:
    """A line that is written over on a terminal, and otherwise a new one from time to time."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._begun = self._told = time.monotonic()
        self._done = 0
        self._over = "\r" if sys.stderr.isatty() else "\n"

    def step(self, failed: int) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._told >= (0.5 if self._over == "\r" else _PROGRESS_S):
            self._told = now
            left = (now - self._begun) / self._done * (self._total - self._done)
            self._write(
                f"{self._done} of {self._total} seeds, {failed} failed, {left:.0f} s to go   ", self._over
            )

    def tell(self, text: str) -> None:
        self._write(text, "\n")

    def end(self, failed: list[Result]) -> None:
        took = time.monotonic() - self._begun
        listed = f": {' '.join(str(result.seed) for result in failed)}" if failed else ""
        self._write(f"{self._done} seeds in {took:.0f} s, {len(failed)} failed{listed}", "\n")

    def _write(self, text: str, end: str) -> None:
        if not self._quiet:
            print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of strings have an order of their own in each process
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
    sys.exit(main())
