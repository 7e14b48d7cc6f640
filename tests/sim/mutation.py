"""Do the promises notice when the product is broken?  Patches in `mutants/` break it, one at a time.

    python -m tests.sim.mutation              all of them            `make sim-mutants`
    python -m tests.sim.mutation brake-off    those named

Each patch begins with a line that says what it breaks.  It is applied to a copy of the tree, and seeds are
played there until an invariant is broken: an unexpected error or a daemon that ends by itself does not count.
At last the unchanged tree plays every seed by which a mutant was found; there all of them must pass.

Ends with status 0 only if every mutant was found and the unchanged tree passes.  A patch that does not apply
any more is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent / "mutants"
_MOST = 2000  # seeds
_PRODUCT = ("core", "cext", "ipam", "dns", "lb", "cmdb", "handlers", "portal", "controller", "lab", "src")
_TESTS = ("tests/sim", "tests/unit/listings.py")
_KEPT_OUT = shutil.ignore_patterns("__pycache__", "mutants", "regressions", "build")


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant. `seed` is -1 if no seed found it."""

    name: str
    what: str
    seed: int
    found: str

    @property
    def is_found(self) -> bool:
        return self.seed >= 0


class Unusable(Exception):
    """The patch does not apply, or the changed tree does not even start."""


def main() -> int:
    asked = _arguments()
    patches = sorted(PATCHES.glob("*.patch"))
    chosen = [patch for patch in patches if not asked.names or patch.stem in asked.names]
    if not chosen:
        print(f"no such mutant; there are: {', '.join(patch.stem for patch in patches)}")
        return 2
    with ThreadPoolExecutor(asked.jobs) as pool:
        verdicts = list(pool.map(lambda patch: _told(_try(patch, asked.most)), chosen))
    seeds = sorted({verdict.seed for verdict in verdicts if verdict.is_found})
    unsound = _control(seeds, asked.jobs)
    print(_table(verdicts))
    for line in unsound:
        print(f"the unchanged tree fails, too: {line}")
    missed = [verdict.name for verdict in verdicts if not verdict.is_found]
    print(
        f"{len(verdicts) - len(missed)} of {len(verdicts)} found"
        + (f"; missed: {', '.join(missed)}" if missed else "")
    )
    return 1 if missed or unsound else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutation", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--most", type=int, default=_MOST, help="seeds for each mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _try(patch: Path, most: int) -> Verdict:
    what = patch.read_text().splitlines()[0]
    try:
        with _copy(patch) as tree:
            found = _play(tree, "--seeds", str(most), "--jobs", "1", "--stop")
    except Unusable as error:
        return Verdict(patch.stem, what, -1, str(error))
    if not found:
        return Verdict(patch.stem, what, -1, f"no promise was broken in {most} seeds")
    return Verdict(patch.stem, what, int(found[0]["seed"]), str(found[0]["reason"]))


def _control(seeds: Sequence[int], jobs: int) -> list[str]:
    """The same seeds where nothing is broken."""
    with _copy(None) as tree, ThreadPoolExecutor(jobs) as pool:
        played = pool.map(
            lambda seed: _play(tree, "--first", str(seed), "--seeds", "1", "--jobs", "1"), seeds
        )
        return [f"seed {result['seed']}: {result['reason']}" for results in played for result in results]


@contextmanager
def _copy(patch: Path | None) -> Iterator[Path]:
    """The tree with the patch applied, or as it is."""
    place = Path(tempfile.mkdtemp(prefix="mooring-mutant-"))
    try:
        for name in (*_PRODUCT, *_TESTS):
            source, target = ROOT / name, place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=_KEPT_OUT)
            else:
                shutil.copyfile(source, target)
        if patch is not None:
            _apply(patch, place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _apply(patch: Path, place: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "--recount", str(patch)], cwd=place, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Unusable(f"the patch does not apply: {' '.join(done.stderr.split())}")


def _play(tree: Path, *arguments: str) -> list[dict[str, Any]]:
    """The broken promises that seeds find in a tree."""
    path = os.pathsep.join((str(tree / "src"), str(tree)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--json", "--no-record", *arguments],
        cwd=tree, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    if done.returncode not in (0, 1) or (done.returncode == 1 and not done.stdout.strip()):
        raise Unusable(f"the tree does not run: {done.stderr[-300:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def _told(verdict: Verdict) -> Verdict:
    state = f"seed {verdict.seed}" if verdict.is_found else "MISSED"
    print(f"{verdict.name}: {state}: {verdict.found[:160]}", file=sys.stderr, flush=True)
    return verdict


def _table(verdicts: Sequence[Verdict]) -> str:
    rows = [("mutant", "seed", "what broke first")]
    rows += [(one.name, str(one.seed) if one.is_found else "-", one.found[:90]) for one in verdicts]
    wide = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{wide[0]}}  {seed:>{wide[1]}}  {found}" for name, seed, found in rows)


if __name__ == "__main__":
    sys.exit(main())
