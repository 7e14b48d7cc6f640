"""The program that an installed host runs: a request in, a report out, both JSON.

    PYTHON -IS <directory>/current/run VERSION < request > report
    PYTHON -IS <directory>/current/run VERSION greet > report

With `greet` it only tells its version, so that a caller can see ahead of need whether it is there.

The request is `{"settings": {...}, "operations": [...]}`, as the Ansible module takes them; the report is
`{"version": ..., "results": [...], "took_s": ..., "cpu_s": ...}`, the last two since the program was started.
A caller that wants another version is told the one that is here, with exit status 3, before anything was read
or done: what to do about it is the caller's to decide.

The program comes as one archive (see `install`), because unpacked and compiled once it starts several times
faster than the module, which Ansible sends and unpacks anew for every call.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from .host import Settings
from .operations import perform

OTHER_VERSION = 3
_VERSION_FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "version.txt")


def installed_version() -> str:
    """The version of the archive that this was unpacked from; empty where it was not."""
    try:
        with open(_VERSION_FILE, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The report for a request; raises what a malformed one deserves."""
    results = perform(Settings(**request["settings"]), request["operations"])
    return {"results": results, "took_s": _age_s(), "cpu_s": time.process_time()}


def _age_s() -> float:
    """How long ago this process was started, Python's own start included."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        started = int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def main(arguments: list[str]) -> int:
    """Read a request from standard input and write the report to standard output; the exit status."""
    if len(arguments) not in (1, 2) or arguments[1:] not in ([], ["greet"]):
        print("usage: run VERSION [greet]", file=sys.stderr)
        return 2
    version = installed_version()
    report: dict[str, Any] = {"version": version}
    if arguments == [version]:
        report.update(answer(json.load(sys.stdin)))
    json.dump(report, sys.stdout)
    return 0 if arguments[0] == version else OTHER_VERSION
