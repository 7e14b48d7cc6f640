"""Starting, watching and ending the lab's processes.

Processes outlive the command that starts them: each is the leader of a session of its own, writes to
a log file, and carries `MOORING_LAB=<name>` in its environment.  That variable is inherited by all
that it starts (containers get it from us too), so `kill_all` finds every process of a lab by reading
/proc, without trusting any pid file; a lab whose `up` was killed half-way goes down like any other.
Some programs write their title over their environment (Redis, Nginx, sshd); those are known by the
lab's log file on their standard output, or by the lab's namespace they are in.

A `Part` is one process with the question that tells whether it serves.  `start` asks that question
again and again until a deadline and names the part and its log when the answer stays no.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mooring.lab.plan import LabError, LabPlan

MARK = "MOORING_LAB"
_POLL_S = 0.03
_KILL_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the lab. `ready` raises (anything) for as long as the process does not serve."""

    name: str
    argv: Sequence[str]
    ready: Callable[[], Awaitable[None]]
    where: str  # for people: an address or a socket
    namespace: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float = 20.0


def environment(plan: LabPlan, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of everything the lab runs: ours, a sane PATH, and the mark."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    # A switch or an engine of somebody else's that the environment names is not meant for the lab.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OVS_", "DOCKER_"))}
    return {**ours, "PATH": path, "LC_ALL": "C.UTF-8", MARK: plan.name, **(extra or {})}


def in_namespace(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """The command, wrapped to run inside that network namespace."""
    return [*(["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []), *argv]


async def run(
    plan: LabPlan,
    argv: Sequence[str],
    *,
    namespace: str | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> str:
    """Run a command to its end and return what it wrote; `LabError` with its complaint otherwise."""
    command = in_namespace(namespace, argv)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(plan, env),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LabError(f"{' '.join(command)}: no end after {timeout_s:.0f} s") from None
    text = output.decode(errors="replace")
    if process.returncode:
        raise LabError(f"{' '.join(command)}: exit status {process.returncode}: {text.strip()[-500:]}")
    return text


def log_file(plan: LabPlan, name: str) -> Path:
    """Where that process writes what it has to say."""
    return plan.log_dir / f"{name}.log"


def pid_of(plan: LabPlan, name: str) -> int | None:
    """The process id of a part that was started and still lives, else None."""
    try:
        pid = int((plan.pid_dir / name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if _is_marked(plan, pid) else None


def spawn(plan: LabPlan, part: Part) -> int:
    """Start the process detached from us and return its pid."""
    argv = in_namespace(part.namespace, part.argv)
    program = shutil.which(argv[0], path=environment(plan)["PATH"])
    if program is None:
        raise LabError(f"{part.name}: no program {argv[0]!r} on PATH")
    log = str(log_file(plan, part.name))
    pid = os.posix_spawn(
        program,
        argv,
        environment(plan, part.env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    (plan.pid_dir / part.name).write_text(f"{pid}\n")
    return pid


async def start(plan: LabPlan, part: Part) -> None:
    """Spawn the part and wait until it serves; `LabError` names it and its log when it does not."""
    pid = spawn(plan, part)
    await wait_ready(part, log_file(plan, part.name), lambda: _exit_status(pid))


async def wait_ready(part: Part, log: Path, ended: Callable[[], int | None]) -> None:
    """Ask `part.ready` until it returns, the process ends, or the deadline passes."""
    give_up = time.monotonic() + part.deadline_s
    while True:
        try:
            await asyncio.wait_for(part.ready(), part.deadline_s)
            return
        except Exception as error:  # whatever it is, it means "not yet"; the last one is reported
            reason = f"{type(error).__name__}: {error}".strip(": ")
        status = ended()
        if status is not None:
            raise LabError(
                f"{part.name} ended with status {status} instead of serving; see {log}{_tail(log)}"
            )
        if time.monotonic() > give_up:
            raise LabError(f"{part.name} did not serve within {part.deadline_s:.0f} s ({reason}); see {log}")
        await asyncio.sleep(_POLL_S)


def _exit_status(pid: int) -> int | None:
    """The exit status of a child of ours, None while it runs."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if done else None


def _tail(log: Path) -> str:
    """The last line of a log, for an error message."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f": {lines[-1][:300]}" if lines else ""


def find_all(plan: LabPlan) -> list[int]:
    """Every live process of the lab: with its mark or log, in its namespaces or its control group."""
    namespaces = _inodes(plan)
    spared = set(_ancestors(os.getpid()))
    found = {pid for pid in _pids() if _belongs(plan, pid, namespaces)} | set(_contained(plan))
    return sorted(found - spared)


def kill_all(plan: LabPlan) -> int:
    """SIGKILL every process of the lab until none is found twice in a row; returns how many there were."""
    seen: set[int] = set()
    quiet = 0
    give_up = time.monotonic() + _KILL_DEADLINE_S
    while quiet < 2:
        found = find_all(plan)
        for pid in found:
            with suppress(ProcessLookupError):  # it was faster than we
                os.kill(pid, signal.SIGKILL)
        seen.update(found)
        # A process may have been forking while we looked, hence the second look.
        quiet = 0 if found else quiet + 1
        if time.monotonic() > give_up:
            raise LabError(f"lab {plan.name}: processes {found} do not end; see /proc/PID/stack")
        time.sleep(_POLL_S)
    _reap(seen)
    return len(seen)


def _reap(pids: set[int]) -> None:
    """Collect those that were our own children, so that no zombie stays under a long-lived caller."""
    for pid in pids:
        with suppress(ChildProcessError):  # not a child of ours
            os.waitpid(pid, os.WNOHANG)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _belongs(plan: LabPlan, pid: int, namespaces: set[tuple[int, int]]) -> bool:
    if _is_marked(plan, pid):
        return True
    try:
        place = os.stat(f"/proc/{pid}/ns/net")
    except OSError:  # it has ended, or is ending
        return False
    return (place.st_dev, place.st_ino) in namespaces


def cgroups(plan: LabPlan) -> list[Path]:
    """The control group of the lab's containers, in every hierarchy where it exists."""
    root = Path("/sys/fs/cgroup")
    return [path for path in (root / plan.cgroup, *root.glob(f"*/{plan.cgroup}")) if path.is_dir()]


def _contained(plan: LabPlan) -> Iterator[int]:
    for top in cgroups(plan):
        for directory, _, _ in os.walk(top):  # says nothing of a group that is being removed
            with suppress(OSError):
                yield from map(int, (Path(directory) / "cgroup.procs").read_text().split())


def _is_marked(plan: LabPlan, pid: int) -> bool:
    """Whether a live process carries the lab's mark or writes to one of the lab's logs."""
    try:
        if f"{MARK}={plan.name}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
        return Path(os.readlink(f"/proc/{pid}/fd/1")).parent == plan.log_dir
    except OSError:  # it has ended: a zombie has neither
        return False


def _inodes(plan: LabPlan) -> set[tuple[int, int]]:
    """Identity of each of the lab's namespaces that exists and is not the one we are in."""
    own = os.stat("/proc/self/ns/net")
    found = set()
    for name in plan.namespaces:
        with suppress(OSError):  # not there (any more)
            place = os.stat(f"/run/netns/{name}")
            # A namespace file whose mount is gone is a plain file on the file system of /run.
            if place.st_dev == own.st_dev and place.st_ino != own.st_ino:
                found.add((place.st_dev, place.st_ino))
    return found


def _ancestors(pid: int) -> Iterator[int]:
    """The process itself, its parent, and so on: never to be killed by their own `down`."""
    while pid > 0:
        yield pid
        with open(f"/proc/{pid}/stat", "rb") as stat:
            pid = int(stat.read().rpartition(b")")[2].split()[1])
