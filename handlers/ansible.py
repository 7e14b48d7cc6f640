"""Runs the operations of one host as one Ansible play, through ansible-runner.

A play costs about a second of process start and connection, whatever it does, so callers hand over
everything that waits for a host at once; the module on the host answers with one result per operation.

What is done about ansible-runner's sharp edges, each of which was met:

* It blocks, so each play runs in a thread; and it replaces the process's signal handlers unless it is given
  a `cancel_callback`, so it always gets one.
* Its own cancelling kills only its process group, which Ansible's workers have left. We instead ask
  `ansible-playbook` to terminate (it takes its workers along), give it a grace, and then kill whatever
  still carries this flight's mark in its environment. Shared ssh connections are spared: they serve other
  flights.
* Runs that share a data directory read each other's files, so each has a fresh one that is deleted with it.
* An exception in its event handler would end the run without a result, so ours cannot raise.

A host that hangs holds a thread until its play's time is up.  Hosts whose last play gave no results therefore
share a few threads of their own until one of their plays succeeds, and never take one from the others.

Operations travel as Base64 of JSON: text in them (file contents made from labels) must never be taken for a
template on the controller.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ansible_runner
import structlog

from mooring.core.errors import Retryable

PLAYBOOK_DIR = Path(__file__).resolve().parent.parent / "playbooks"
POLL_S = 0.1
FLIGHT_MARK = "MOORING_FLIGHT"
log = structlog.get_logger(__name__)

Results = list[dict[str, object]]


class HostUnreachable(Retryable):
    """Ansible could not connect to the host; nothing was done there."""


class PlayFailed(Retryable):
    """The play ended without results; what was done on the host is unknown until it is read again."""


class AnsibleRunner:
    """Runs `host.yml` for one host at a time, several plays in parallel.

    `inventory` is Ansible's, and may set `mooring_database`, `mooring_engine` and `mooring_state_dir` for
    hosts that differ, and `mooring_wiring` for those that are not wired as `wiring` says.  `owner` and
    `bridge` are what the module needs to know its own ports.  A play is ended
    after `timeout_s`; `grace_s` is the time it then has to end by itself.  `parallel` bounds the plays in
    flight; a quarter as many may be in flight besides, for hosts whose last play gave no results.
    """

    def __init__(
        self,
        inventory: Path,
        *,
        owner: str,
        bridge: str,
        wiring: str = "native",
        clean_pipework: bool = False,
        playbook_dir: Path = PLAYBOOK_DIR,
        timeout_s: float = 60.0,
        connect_timeout_s: int = 5,
        grace_s: float = 3.0,
        parallel: int = 16,
        host_key_checking: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inventory = inventory.resolve()
        self._variables = {
            "mooring_owner": owner,
            "mooring_bridge": bridge,
            "mooring_usual_wiring": wiring,
            "mooring_clean_pipework": clean_pipework,
        }
        self._playbook = playbook_dir.resolve() / "host.yml"
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._grace_s = grace_s
        self._host_key_checking = host_key_checking
        self._monotonic = monotonic
        # Below a short path: the sockets of shared ssh connections may not have long ones.
        self._work_dir = Path(tempfile.mkdtemp(prefix="mooring-"))
        self._answering = ThreadPoolExecutor(parallel, thread_name_prefix="ansible")
        self._failing = ThreadPoolExecutor(max(1, parallel // 4), thread_name_prefix="ansible-failing")
        self._failed: set[str] = set()
        self._flights: set[_Flight] = set()

    async def run(self, host: str, operations: Sequence[Mapping[str, object]], epoch: int) -> Results:
        """Perform the operations on the host; returns one result for each, in order.

        Raises HostUnreachable or PlayFailed.  When cancelled, it first makes sure that the play has ended.
        """
        flight = _Flight(self._play(host, operations, epoch), self._timeout_s, self._grace_s, self._monotonic)
        self._flights.add(flight)
        executor = self._failing if host in self._failed else self._answering
        future = asyncio.get_running_loop().run_in_executor(executor, flight.fly)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            flight.stop()
            await asyncio.wait([future])
            raise
        finally:
            self._flights.discard(flight)
        self._failed.add(host)  # unless its results say otherwise
        results = flight.results(host)
        if len(results) != len(operations):
            raise PlayFailed(f"host {host} gave {len(results)} results for {len(operations)} operations")
        self._failed.discard(host)
        return results

    async def close(self) -> None:
        """End all plays and shared ssh connections; afterwards no process of ours is left."""
        for flight in tuple(self._flights):
            flight.stop()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for executor in (self._answering, self._failing):
            executor.shutdown(wait=True)
        for control in self._work_dir.glob("cp/*"):
            words = ["ssh", "-o", f"ControlPath={control}", "-O", "exit", "any"]
            subprocess.run(words, capture_output=True, timeout=10, check=False)
        shutil.rmtree(self._work_dir, ignore_errors=True)

    def _play(self, host: str, operations: Sequence[Mapping[str, object]], epoch: int) -> dict[str, Any]:
        """The arguments of one run, with a data directory of its own."""
        packed = base64.b64encode(json.dumps([dict(operation) for operation in operations]).encode()).decode()
        directory = tempfile.mkdtemp(prefix="flight-", dir=self._work_dir)
        return {
            "private_data_dir": directory,
            "playbook": str(self._playbook),
            "inventory": str(self._inventory),
            "limit": host,
            "extravars": {**self._variables, "mooring_epoch": epoch, "mooring_operations": packed},
            "envvars": self._environment(directory),
            "settings": {"pexpect_timeout": POLL_S, "suppress_ansible_output": True},
            "quiet": True,
        }

    def _environment(self, directory: str) -> dict[str, str]:
        options = (
            "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=2"
        )
        return {
            FLIGHT_MARK: directory,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(self._work_dir / "home"),
            "ANSIBLE_LOCAL_TEMP": f"{directory}/local",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._work_dir / "cp"),
            "ANSIBLE_SSH_ARGS": f"{options} -o BatchMode=yes",
            "ANSIBLE_TIMEOUT": str(self._connect_timeout_s),
            "ANSIBLE_HOST_KEY_CHECKING": str(self._host_key_checking),
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_GATHERING": "explicit",
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
            "ANSIBLE_NOCOLOR": "True",
            "ANSIBLE_DEPRECATION_WARNINGS": "False",
            # The runner's display drops results above this many characters; an observation may be long.
            "MAX_EVENT_RES": str(64 << 20),
        }


class _Flight:
    """One play on its way, and what became of it."""

    def __init__(
        self, play: dict[str, Any], timeout_s: float, grace_s: float, monotonic: Callable[[], float]
    ) -> None:
        self._play = play
        self._mark = str(play["private_data_dir"])
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._monotonic = monotonic
        self._stop = threading.Event()
        self._deadline = 0.0
        self._asked_at: float | None = None
        self._heard = False
        self._results: Results | None = None
        self._unreachable: str | None = None
        self._failure: str | None = None

    def stop(self) -> None:
        """Ask the flight to end; `fly` returns soon."""
        self._stop.set()

    def results(self, host: str) -> Results:
        """The module's results; raises what kept the play from giving them."""
        if self._results is not None:
            return self._results
        if self._unreachable is not None:
            raise HostUnreachable(f"host {host} cannot be reached: {self._unreachable}")
        raise PlayFailed(f"the play on host {host} gave no result: {self._failure or 'no reason given'}")

    def fly(self) -> None:
        """Run the play to its end, in a thread."""
        self._deadline = self._monotonic() + self._timeout_s
        try:
            if self._stop.is_set():
                self._failure = "stopped before it began"
                return
            done = ansible_runner.run(
                **self._play, event_handler=self._on_event, cancel_callback=self._cancelled
            )
            if self._results is None and self._failure is None:
                self._failure = _tail(Path(self._mark)) or f"ansible-playbook ended with {done.rc}"
        except Exception as error:
            # ansible-runner raises whatever its parts raise; here it only means that there are no results.
            log.exception("play_crashed", flight=self._mark)
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            if self._asked_at is not None:
                _signal_all(self._mark, signal.SIGKILL)
            shutil.rmtree(self._mark, ignore_errors=True)

    def _cancelled(self) -> bool:
        """Polled by the runner: True makes it kill the play, which we first ask to end by itself."""
        now = self._monotonic()
        if not self._stop.is_set() and now < self._deadline:
            return False
        if self._asked_at is None:
            self._failure = "stopped" if self._stop.is_set() else f"no end after {self._timeout_s:g} s"
            self._asked_at = now
        # Right after the fork the child does not carry the mark yet: ask until it was heard once.
        self._heard = self._heard or _signal_leader(self._mark)
        return now - self._asked_at > self._grace_s

    def _on_event(self, event: dict[str, Any]) -> bool:
        """Collect the module's result; False keeps the runner from storing the event."""
        try:
            self._collect(event.get("event", ""), event.get("event_data", {}).get("res") or {})
        except Exception:
            # An exception would make the runner end the run silently.
            log.exception("play_event_unreadable", flight=self._mark)
        return False

    def _collect(self, kind: str, result: dict[str, Any]) -> None:
        if kind == "runner_on_ok" and isinstance(result.get("results"), list):
            self._results = [dict(item) for item in result["results"]]
        elif kind == "runner_on_unreachable":
            self._unreachable = " ".join(str(result.get("msg", "")).split())[:1000]
        elif kind == "runner_on_failed":
            detail = [str(result.get(key, "")).strip() for key in ("msg", "module_stderr", "module_stdout")]
            self._failure = "; ".join(part for part in detail if part)[:2000]


def _tail(directory: Path) -> str:
    """The end of what Ansible printed, for plays that never came to the task."""
    outputs = sorted(directory.glob("artifacts/*/stdout"))
    return outputs[0].read_text(encoding="utf-8", errors="replace").strip()[-1000:] if outputs else ""


def _processes(mark: str) -> list[int]:
    """Ids of the living processes that carry the flight's mark, without ssh's shared connections."""
    wanted = f"{FLIGHT_MARK}={mark}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            carries = wanted in (entry / "environ").read_bytes().split(b"\0")
            if carries and b"[mux]" not in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found


def _signal_leader(mark: str) -> bool:
    """Ask the flight's `ansible-playbook`, our own child, to terminate; False if it is not there yet."""
    for process in _processes(mark):
        status = Path(f"/proc/{process}/stat")
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                os.kill(process, signal.SIGTERM)
                return True
        except OSError:
            continue  # ended meanwhile
    return False


def _signal_all(mark: str, number: signal.Signals) -> None:
    for process in _processes(mark):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
