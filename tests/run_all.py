"""Every test with coverage, in three parts at the same time: most of what an end-to-end test does is wait.

    .venv/bin/python tests/run_all.py

The first part is everything but the end-to-end tests, the second one those of them that `SECOND` names,
the third one the others.  Each part is one pytest; the two with end-to-end tests have a lab each.  The
first one writes to the screen and the others to files, which are shown, and followed to their ends, when
the one before is over; so nothing is told in pieces.  The exit status is 0 only if all three are.

An interruption (Ctrl-C, TERM, HUP) is passed on once to each part, whose fixtures then take down what
they have set up; this waits for them, and takes down the labs itself if they had to be killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mooring.lab import lifecycle
from mooring.lab.plan import DEFAULT_PARENT, LabError, LabPlan

HERE = Path(__file__).resolve().parent
E2E = HERE / "e2e"
SECOND = (
    "test_crash.py", "test_rebuild.py", "test_brake.py", "test_story.py", "test_stream_faults.py",
    "test_moves.py",
)  # fmt: skip
LABS = (("test", 26000), ("test2", 26100))  # of the second part and of the third
LOGS = tuple(HERE.parent / "build" / f"test-part-{number}.log" for number in (2, 3))
_ENDS_WITHIN_S = 90.0
_LOOK_EVERY_S = 0.2


def main() -> int:
    """Run all parts; the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell may have had the first ignored
        signal.signal(number, signal.default_int_handler)
    LOGS[0].parent.mkdir(exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []
    try:
        for lab, words in enumerate((_second_part(), _third_part())):
            with LOGS[lab].open("wb") as output:
                running.append(_start(lab, words, output.fileno()))
        running.append(_start(0, _first_part(), None))
        return _watch(running[-1], running[:-1])
    except KeyboardInterrupt:
        _say(f"interrupted; the other parts had told this so far: {LOGS[0]}, {LOGS[1]}")
        return 130
    finally:
        _end(running)


def _first_part() -> list[str]:
    return sorted(str(place) for place in HERE.iterdir() if place != E2E and any(place.rglob("test_*.py")))


def _second_part() -> list[str]:
    return [str(E2E / name) for name in SECOND]


def _third_part() -> list[str]:
    return [str(E2E), *(f"--ignore={E2E / name}" for name in SECOND)]


def _start(lab: int, words: Sequence[str], output: int | None) -> subprocess.Popen[bytes]:
    name, base = LABS[lab]
    argv = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "--durations=10", "--durations-min=20"]
    env = {"MOORING_TEST_LAB": name, "MOORING_TEST_PORT_BASE": str(base), "PYTHONUNBUFFERED": "1"}
    # In a session of its own: Ctrl-C is for us alone, who pass it on once.
    return subprocess.Popen(
        [*argv, "-o", f"cache_dir=build/pytest-{name}-{len(words)}", *words],
        cwd=HERE.parent,
        env={**os.environ, **env},
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _watch(first: subprocess.Popen[bytes], others: Sequence[subprocess.Popen[bytes]]) -> int:
    _say("part 1 of the tests; the others run beside it and write to files")
    statuses = [first.wait()]
    for number, (part, log) in enumerate(zip(others, LOGS, strict=True), start=2):
        _say(f"part {number}")
        for piece in _told_by(part, log):
            sys.stdout.buffer.write(piece)
            sys.stdout.flush()
        statuses.append(part.returncode)
    _say(f"exit statuses of the parts: {', '.join(map(str, statuses))}")
    return next(filter(None, statuses), 0)


def _told_by(part: subprocess.Popen[bytes], path: Path) -> Iterator[bytes]:
    """What it has written so far, then what it writes until it ends."""
    with path.open("rb") as log:
        ended = False
        while True:
            if piece := log.read():
                yield piece
            elif ended:
                return
            else:
                ended = part.poll() is not None
                time.sleep(0 if ended else _LOOK_EVERY_S)


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs, gently; then the labs that nobody is left to take down."""
    left = [part for part in running if part.poll() is None]
    for part in left:
        part.send_signal(signal.SIGINT)
    give_up = time.monotonic() + _ENDS_WITHIN_S
    killed = False
    for part in left:
        try:
            part.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed = True
            with suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGKILL)
            part.wait()
    if killed:
        _take_down()


def _take_down() -> None:
    for name, base in LABS:
        with suppress(LabError):  # it is somebody else's, or cannot run here
            lifecycle.down(LabPlan(name, DEFAULT_PARENT / name, base))


def _say(text: str) -> None:
    width = shutil.get_terminal_size((80, 24)).columns
    print(f"{f' {text} ':=^{width}}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
