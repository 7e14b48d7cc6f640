"""How much of a wrong `decide`, merge or lease book the unit tests would notice: `make mutation`.

mutmut (a public mutation tester) changes one expression at a time and runs the tests that reach it.  The
score of a target is the share of its mutants that some test fails on; a mutant that hangs a test until
mutmut ends it counts as noticed, one that no test reaches as missed.

mutmut wants the package as plain folders, and this checkout reaches them through links, so a copy is made:
sources without links, the unit tests, and a configuration of their own.  What was missed is listed with the
command that shows it.  Ends with 1 if a target scores less than `--least` per cent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "mutation"
NOTICED = frozenset({"killed", "timeout", "segfault", "suspicious"})
TARGETS = {
    "decide": (["controller/decide.py"], ["test_decide.py"]),
    "merge": (["controller/merge.py"], ["test_merge*.py"]),
    "ipam": (["ipam/*.py"], ["test_lease_book*.py", "test_pool*.py", "test_ipam*.py"]),
}
_CONFIGURATION = """
[tool.mutmut]
source_paths = ["src/mooring"]
only_mutate = [{mutated}]
pytest_add_cli_args_test_selection = [{tests}]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-x"]
also_copy = ["pyproject.toml", "tests"]
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Mutation scores of the modules that decide about addresses."
    )
    parser.add_argument("targets", nargs="*", help=f"some of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--least", type=float, default=80.0, help="lowest score that is accepted, per cent")
    options = parser.parse_args()
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    scores = [_score(name, *TARGETS[name]) for name in options.targets or TARGETS]
    return 0 if min(scores) >= options.least else 1


def _score(name: str, mutated: list[str], tests: list[str]) -> float:
    """Run one target; its score in per cent."""
    directory = COPY / name
    _copy(directory, mutated, _found(tests))
    log = directory / "log"
    with log.open("wb") as output:
        ended = subprocess.run(
            [_tool(), "run", "--max-children", str(os.cpu_count() or 1)],
            cwd=directory, env=_environment(), stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    results = _results(directory)
    if ended.returncode or not results:
        sys.exit(f"{name}: mutmut ended with {ended.returncode}; the end of {log} says why")
    return _report(name, directory, results)


def _found(patterns: list[str]) -> list[str]:
    """The test files, relative to the root."""
    files = {file for pattern in patterns for file in (ROOT / "tests" / "unit").glob(pattern)}
    return sorted(str(file.relative_to(ROOT)) for file in files)


def _copy(directory: Path, mutated: list[str], tests: list[str]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src" / "mooring", directory / "src" / "mooring", ignore=leave)
    shutil.copytree(ROOT / "tests" / "unit", directory / "tests" / "unit", ignore=leave)
    shutil.copy(ROOT / "tests" / "conftest.py", directory / "tests" / "conftest.py")
    configuration = _CONFIGURATION.format(
        mutated=_listed([f"src/mooring/{file}" for file in mutated]), tests=_listed(tests)
    )
    project = (ROOT / "pyproject.toml").read_text()
    (directory / "pyproject.toml").write_text(project + configuration)


def _listed(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _results(directory: Path) -> list[tuple[str, str]]:
    """Every mutant with what became of it."""
    told = subprocess.run(
        [_tool(), "results", "--all", "true"],
        cwd=directory, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    pairs = (line.strip().rpartition(": ") for line in told.stdout.splitlines() if "__mutmut_" in line)
    return [(mutant, verdict) for mutant, _, verdict in pairs]


def _report(name: str, directory: Path, results: list[tuple[str, str]]) -> float:
    missed = [mutant for mutant, verdict in results if verdict not in NOTICED]
    score = 100.0 * (len(results) - len(missed)) / len(results)
    counts = ", ".join(
        f"{count} {verdict}" for verdict, count in Counter(v for _, v in results).most_common()
    )
    print(f"{name}: {score:.1f} % of {len(results)} mutants noticed ({counts})", flush=True)
    if missed:
        (directory / "missed").write_text("\n".join(missed) + "\n")
        print(f"  missed ones stand in {directory / 'missed'}; to see one: cd {directory}; mutmut show NAME")
    return score


def _tool() -> str:
    return str(Path(sys.executable).with_name("mutmut"))


def _environment() -> dict[str, str]:
    # An editable installation would offer the unchanged sources as well; the copy comes first.
    return {**os.environ, "PYTHONPATH": "", "PYTHONHASHSEED": "0"}


if __name__ == "__main__":
    sys.exit(main())
