"""The conservative way: each play is an `ansible-playbook` of its own, run by ansible-runner.

A play costs a start of Ansible and a connection, whatever it does, so callers hand over
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
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ansible_runner
import structlog

from mooring.handlers.helper import helper_version, write_archive
from mooring.handlers.plays import (
    FLIGHT_MARK,
    Flying,
    Helped,
    HostUnreachable,
    Operations,
    PlayFailed,
    Results,
    check_host,
    close_connections,
    nobody_told,
)
from mooring.handlers.processes import ask_child_to_end, kill_marked

POLL_S = 0.1
log = structlog.get_logger(__name__)


class AnsibleRunner:
    """Runs `host.yml` for one host at a time, several plays in parallel; a `Runner` (see `hosts`).

    `helped` may be set: it is told after each play which version of the program did it on the host, or "".
    """

    def __init__(
        self,
        flying: Flying,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flying = flying
        self.helped: Helped = nobody_told
        self._monotonic = monotonic
        # Below a short path: the sockets of shared ssh connections may not have long ones.
        self._work_dir = Path(tempfile.mkdtemp(prefix="mooring-"))
        self._variables = flying.variables(helper_version(flying.playbook_dir))
        self._answering = ThreadPoolExecutor(flying.parallel, thread_name_prefix="ansible")
        self._failing = ThreadPoolExecutor(max(1, flying.parallel // 4), thread_name_prefix="ansible-failing")
        self._failed: set[str] = set()
        self._flights: set[_Flight] = set()

    async def prepare(self, host: str) -> None:
        """Nothing can be made ready: every play begins with a new process."""

    async def run(self, host: str, operations: Operations, epoch: int) -> Results:
        """Perform the operations on the host; returns one result for each, in order.

        Raises HostUnreachable or PlayFailed.  When cancelled, it first makes sure that the play has ended.
        """
        packed = base64.b64encode(json.dumps([dict(operation) for operation in operations]).encode()).decode()
        flight = await self._fly(host, "host", {"mooring_epoch": epoch, "mooring_operations": packed})
        self._failed.add(host)  # unless its results say otherwise
        results = flight.results(host)
        if len(results) != len(operations):
            raise PlayFailed(f"host {host} gave {len(results)} results for {len(operations)} operations")
        self._failed.discard(host)
        self.helped(host, flight.helper)
        return results

    async def install(self, host: str) -> None:
        """Install the program on the host, or replace it by this version. Raises as `run` does."""
        archive = self._work_dir / "mooring-host.pyz"
        await asyncio.to_thread(write_archive, archive, self._flying.playbook_dir)
        flight = await self._fly(host, "install", {"mooring_helper_archive": str(archive)})
        flight.check_complete(host)

    async def close(self) -> None:
        """End all plays and shared ssh connections; afterwards no process of ours is left."""
        for flight in tuple(self._flights):
            flight.stop()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for executor in (self._answering, self._failing):
            executor.shutdown(wait=True)
        close_connections(self._work_dir)
        shutil.rmtree(self._work_dir, ignore_errors=True)

    async def _fly(self, host: str, playbook: str, variables: Mapping[str, object]) -> _Flight:
        """Run a play to its end, whichever it has. When cancelled, it first makes sure that it has ended."""
        check_host(host)
        play = self._play(host, playbook, variables)
        flight = _Flight(play, self._flying.timeout_s, self._flying.grace_s, self._monotonic)
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
        return flight

    def _play(self, host: str, playbook: str, variables: Mapping[str, object]) -> dict[str, Any]:
        """The arguments of one run, with a data directory of its own."""
        directory = tempfile.mkdtemp(prefix="flight-", dir=self._work_dir)
        return {
            "private_data_dir": directory,
            "playbook": str(self._flying.playbook(playbook)),
            "inventory": str(self._flying.inventory.resolve()),
            "limit": host,
            "extravars": {**self._variables, **variables},
            "envvars": {
                **self._flying.environment(self._work_dir),
                FLIGHT_MARK: directory,
                "ANSIBLE_LOCAL_TEMP": f"{directory}/local",
                # The runner's display drops results above this many characters; an observation may be long.
                "MAX_EVENT_RES": str(64 << 20),
            },
            "settings": {"pexpect_timeout": POLL_S, "suppress_ansible_output": True},
            "quiet": True,
        }


class _Flight:
    """One play on its way, and what became of it."""

    def __init__(
        self, play: dict[str, Any], timeout_s: float, grace_s: float, monotonic: Callable[[], float]
    ) -> None:
        self._play = play
        self._directory = Path(play["private_data_dir"])
        self._mark = f"{FLIGHT_MARK}={self._directory}"
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
        self._complete = False
        self.helper = ""

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

    def check_complete(self, host: str) -> None:
        """Raise what kept the play from coming to its end; for plays without results."""
        if not self._complete:
            self.results(host)

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
            self._complete = done.rc == 0
            if self._results is None and self._failure is None:
                self._failure = _tail(self._directory) or f"ansible-playbook ended with {done.rc}"
        except Exception as error:
            # ansible-runner raises whatever its parts raise; here it only means that there are no results.
            log.exception("play_crashed", flight=str(self._directory))
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            if self._asked_at is not None:
                kill_marked(self._mark)
            shutil.rmtree(self._directory, ignore_errors=True)

    def _cancelled(self) -> bool:
        """Polled by the runner: True makes it kill the play, which we first ask to end by itself."""
        now = self._monotonic()
        if not self._stop.is_set() and now < self._deadline:
            return False
        if self._asked_at is None:
            self._failure = "stopped" if self._stop.is_set() else f"no end after {self._timeout_s:g} s"
            self._asked_at = now
        # Right after the fork the child does not carry the mark yet: ask until it was heard once.
        self._heard = self._heard or ask_child_to_end(self._mark)
        return now - self._asked_at > self._grace_s

    def _on_event(self, event: dict[str, Any]) -> bool:
        """Collect the module's result; False keeps the runner from storing the event."""
        try:
            self._collect(event.get("event", ""), event.get("event_data", {}).get("res") or {})
        except Exception:
            # An exception would make the runner end the run silently.
            log.exception("play_event_unreadable", flight=str(self._directory))
        return False

    def _collect(self, kind: str, result: dict[str, Any]) -> None:
        if kind == "runner_on_ok" and isinstance(result.get("results"), list):
            self._results = [dict(item) for item in result["results"]]
            self.helper = str(result.get("helper") or "")
        elif kind == "runner_on_unreachable":
            self._unreachable = " ".join(str(result.get("msg", "")).split())[:1000]
        elif kind == "runner_on_failed":
            detail = [str(result.get(key, "")).strip() for key in ("msg", "module_stderr", "module_stdout")]
            self._failure = "; ".join(part for part in detail if part)[:2000]


def _tail(directory: Path) -> str:
    """The end of what Ansible printed, for plays that never came to the task."""
    outputs = sorted(directory.glob("artifacts/*/stdout"))
    return outputs[0].read_text(encoding="utf-8", errors="replace").strip()[-1000:] if outputs else ""
