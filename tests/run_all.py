"""Every test with coverage, in two halves at the same time: most of what an end-to-end test does is wait.

    .venv/bin/python tests/run_all.py

The first half is everything but the end-to-end tests, and then those of them that `FIRST` names; the second
half is the other end-to-end tests.  Each half is one pytest with a lab of its own.  The first one writes to
the screen and the second to a file, which is shown, and followed to its end, when the first one is over; so
nothing is told in pieces.  The exit status is 0 only if both are.

An interruption (Ctrl-C, TERM, HUP) is passed on once to each half, whose fixtures then take down what they
have set up; this waits for them, and takes down the labs itself if they had to be killed.
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
FIRST = ("test_crash.py", "test_rebuild.py")  # so that both halves take about as long
LABS = (("test", 26000), ("test2", 26100))
LOG = HERE.parent / "build" / "test-second-half.log"
_ENDS_WITHIN_S = 90.0
_LOOK_EVERY_S = 0.2


def main() -> int:
    """Run both halves; the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell may have had the first ignored
        signal.signal(number, signal.default_int_handler)
    LOG.parent.mkdir(exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []
    try:
        with LOG.open("wb") as output:
            running.append(_start(1, _second_half(), output.fileno()))
        running.append(_start(0, _first_half(), None))
        return _watch(*running)
    except KeyboardInterrupt:
        _say(f"interrupted; the second half had told this so far: {LOG}")
        return 130
    finally:
        _end(running)


def _first_half() -> list[str]:
    others = sorted(place for place in HERE.iterdir() if place != E2E and any(place.rglob("test_*.py")))
    return [str(place) for place in (*others, *(E2E / name for name in FIRST))]


def _second_half() -> list[str]:
    return [str(E2E), *(f"--ignore={E2E / name}" for name in FIRST)]


def _start(lab: int, words: Sequence[str], output: int | None) -> subprocess.Popen[bytes]:
    name, base = LABS[lab]
    argv = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "--durations=10", "--durations-min=20"]
    env = {"MOORING_TEST_LAB": name, "MOORING_TEST_PORT_BASE": str(base), "PYTHONUNBUFFERED": "1"}
    # In a session of its own: Ctrl-C is for us alone, who pass it on once.
    return subprocess.Popen(
        [*argv, "-o", f"cache_dir=build/pytest-{name}", *words],
        cwd=HERE.parent,
        env={**os.environ, **env},
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _watch(second: subprocess.Popen[bytes], first: subprocess.Popen[bytes]) -> int:
    _say(f"first half of the tests; the second one runs beside it and writes {LOG}")
    status = first.wait()
    _say(f"first half: exit status {status}; second half:")
    for piece in _told_by(second):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
    _say(f"exit status of the first half: {status}, of the second half: {second.returncode}")
    return status or second.returncode


def _told_by(half: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What it has written so far, then what it writes until it ends."""
    with LOG.open("rb") as log:
        ended = False
        while True:
            if piece := log.read():
                yield piece
            elif ended:
                return
            else:
                ended = half.poll() is not None
                time.sleep(0 if ended else _LOOK_EVERY_S)


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs, gently; then the labs that nobody is left to take down."""
    left = [half for half in running if half.poll() is None]
    for half in left:
        half.send_signal(signal.SIGINT)
    give_up = time.monotonic() + _ENDS_WITHIN_S
    killed = False
    for half in left:
        try:
            half.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed = True
            with suppress(ProcessLookupError):
                os.killpg(half.pid, signal.SIGKILL)
            half.wait()
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
