"""One seed after the other, in this process or in several, and what became of each.

A seed that fails is written down in `regressions/`, and every later run plays those first.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.sim.story import tell
from tests.sim.world import Defect, Violation

REGRESSIONS = Path(__file__).parent / "regressions"
_HANGS_S = 120  # real seconds; a story takes less than one


@dataclass(frozen=True)
class Result:
    """How one seed ended. `reason` is empty if all was well; `promise`: an invariant found it."""

    seed: int
    seconds: float
    reason: str = ""
    trace: str = ""
    promise: bool = False


@contextmanager
def directory() -> Iterator[Path]:
    """A place for stores, in memory where the machine has such a place, because each commit is flushed."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else None
    made = Path(tempfile.mkdtemp(prefix="mooring-sim-", dir=place))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def play(seed: int) -> Result:
    """Play one seed; whatever goes wrong is told in the result."""
    begun = time.monotonic()
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(_HANGS_S)
    try:
        with directory() as place:
            tell(seed, place)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        promise = isinstance(error, Violation) and not isinstance(error, Defect)
        trace = "\n".join(getattr(error, "__notes__", ()))
        return Result(seed, time.monotonic() - begun, reason, trace, promise)
    finally:
        signal.alarm(0)
        gc.unfreeze()  # each daemon freezes what it knows, and here there are thousands of them
    return Result(seed, time.monotonic() - begun)


def _hangs(*_: object) -> None:
    raise TimeoutError(f"the seed has not ended after {_HANGS_S} s")


def play_all(seeds: Iterable[int], jobs: int) -> Iterator[Result]:
    """Play seeds, so many at a time; results as they come."""
    if jobs == 1:
        yield from map(play, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=200) as pool:
        yield from pool.imap_unordered(play, seeds)


def regressions() -> list[int]:
    """The seeds that failed once."""
    return sorted(int(file.stem) for file in REGRESSIONS.glob("*.json"))


def write_down(result: Result) -> None:
    """From now on the seed is played first."""
    REGRESSIONS.mkdir(exist_ok=True)
    known = {"seed": result.seed, "reason": result.reason[:300], "revision": _revision()}
    (REGRESSIONS / f"{result.seed}.json").write_text(json.dumps(known, indent=2) + "\n")


def _revision() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        asked = ["git", "-C", str(REGRESSIONS.parent), "rev-parse", "--short", "HEAD"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    return ""


def as_line(result: Result) -> str:
    """The result as one line of JSON, without its trace."""
    return json.dumps({key: value for key, value in asdict(result).items() if key != "trace"})
