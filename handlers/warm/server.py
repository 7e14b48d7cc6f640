"""The server: forks plays, hands them flights, and sees to it that none outlives its use.

    from the daemon   {"stand": HOST}                            have a play ready for the host
                      {"fly": NUMBER, "host": HOST, "job": JOB}  carry the job to the host
                      {"end": NUMBER}                            give the flight up
    to the daemon     {"flight": NUMBER, ...}                    one for each flight: what the play answered,
                                                                 or {"failed": TEXT} when it ended without

    a play:   forked ──> stands by ──> flies ──> stands by ...
                             └──────────┴──> ends: after `linger_s` without a flight, after an error, when
                                             its flight is given up, when the daemon is gone

A play belongs to one host.  A flight takes one that stands by for its host, else a new one.  One that has to
end while it flies is asked to (SIGTERM), and killed with all its processes `grace_s` later; what was given up
is answered when the play is gone and not before, so that nothing of it is still at work then.

Orphans are handed to this process and not to init, so that it can tell them from strangers' and reap them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mooring.handlers.plays import FLIGHT_MARK
from mooring.handlers.processes import ask_to_end, kill_family, kill_marked, kill_orphans
from mooring.handlers.warm.frames import Message, Wire

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_FAREWELL_S = 10.0  # how long a play that may leave by itself has for it
_TAIL = 1000  # characters of a play's output that are told when it failed


@dataclass(frozen=True)
class Manner:
    """How the server works. `standing`: plays that stand by at most, over all hosts."""

    work_dir: Path
    grace_s: float
    linger_s: float
    standing: int


@dataclass(eq=False)
class Play:
    """One forked play; `flight` is None while it stands by."""

    host: str
    pid: int
    pidfd: int
    wire: Wire
    directory: Path
    since: float  # when it began to stand by
    flight: int | None = None
    leaving: bool = False
    given_up: bool = False
    kill_at: float | None = None

    @property
    def mark(self) -> str:
        return f"{FLIGHT_MARK}={self.directory}"

    def tail(self) -> str:
        """The end of what it said."""
        with contextlib.suppress(OSError):
            return (self.directory / "log").read_text(encoding="utf-8", errors="replace").strip()[-_TAIL:]
        return ""


Act = Callable[[str, int, Path], int]  # host, channel, log: run the play; in the forked process


class Server:
    """One daemon's plays."""

    def __init__(
        self, daemon: socket.socket, act: Act, manner: Manner, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._daemon = Wire(daemon)
        self._act = act
        self._manner = manner
        self._monotonic = monotonic
        self._selector = selectors.DefaultSelector()
        self._plays: set[Play] = set()
        self._alone = False  # the daemon is gone

    def serve(self) -> None:
        """Work until the daemon is gone and every play has ended."""
        self._selector.register(self._daemon.socket, selectors.EVENT_READ, None)
        while self._plays or not self._alone:
            self._watch_senders()
            for key, mask in self._selector.select(self._pause()):
                if (
                    key.data is None or key.data in self._plays
                ):  # it may have ended a moment ago, in this turn
                    self._turn(key.data, key.fileobj, mask)
            self._keep_times()
            _reap_orphans({play.pid for play in self._plays})

    # What happens

    def _turn(self, play: Play | None, what: object, mask: int) -> None:
        wire = play.wire if play else self._daemon
        if play is not None and what == play.pidfd:
            self._ended(play)
            return
        if mask & selectors.EVENT_WRITE:
            wire.flush()
        if not mask & selectors.EVENT_READ:
            return
        messages = wire.receive()
        if messages is None:
            self._forsaken() if play is None else self._silenced(play)
        for message in messages or ():
            self._command(message) if play is None else self._answered(play, message)

    def _command(self, message: Message) -> None:
        if "stand" in message:
            host = str(message["stand"])
            if self._standing(host) is None:
                self._fork(host)
        elif "fly" in message:
            host = str(message["host"])
            play = self._standing(host) or self._fork(host)
            play.flight = int(message["fly"])
            play.wire.send(message["job"])
        elif "end" in message:
            for play in [play for play in self._plays if play.flight == message["end"]]:
                play.given_up = True
                self._end(play)

    def _standing(self, host: str) -> Play | None:
        ready = [p for p in self._plays if p.host == host and p.flight is None and not p.leaving]
        return max(ready, key=lambda play: play.since, default=None)

    def _answered(self, play: Play, message: Message) -> None:
        """A flight has landed, or the play has told why it ends."""
        play.leaving = play.leaving or "results" not in message or bool(message.get("last"))
        if play.leaving and play.kill_at is None:
            play.kill_at = self._monotonic() + _FAREWELL_S
        if play.flight is not None and not play.given_up:
            self._daemon.send({"flight": play.flight, **message})
            play.flight, play.since = None, self._monotonic()

    def _silenced(self, play: Play) -> None:
        """Nobody of the play holds the channel any more: it is about to end."""
        self._selector.unregister(play.wire.socket)
        play.leaving = True
        if play.kill_at is None:
            play.kill_at = self._monotonic() + _FAREWELL_S

    def _ended(self, play: Play) -> None:
        """The play's own process is gone."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(play.pid, 0)
        for message in play.wire.receive() or ():  # said with its last breath
            self._answered(play, message)
        self._plays.discard(play)
        if play.given_up:
            kill_marked(play.mark)
            kill_orphans({other.pid for other in self._plays})
        if play.flight is not None:
            reason = "stopped" if play.given_up else play.tail() or "it ended without a word"
            self._daemon.send({"flight": play.flight, "failed": reason})
        with contextlib.suppress(KeyError):
            self._selector.unregister(play.wire.socket)
        self._selector.unregister(play.pidfd)
        play.wire.socket.close()
        os.close(play.pidfd)
        shutil.rmtree(play.directory, ignore_errors=True)

    def _forsaken(self) -> None:
        """The daemon is gone."""
        self._selector.unregister(self._daemon.socket)
        self._alone = True
        for play in self._plays:
            self._end(play) if play.flight is not None else self._retire(play)

    # Making and ending plays

    def _fork(self, host: str) -> Play:
        directory = Path(tempfile.mkdtemp(prefix="play-", dir=self._manner.work_dir))
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            os._exit(self._be_a_play(host, theirs, directory))
        theirs.close()
        play = Play(host, pid, os.pidfd_open(pid), Wire(ours), directory, self._monotonic())
        self._selector.register(play.pidfd, selectors.EVENT_READ, play)
        self._selector.register(ours, selectors.EVENT_READ, play)
        self._plays.add(play)
        return play

    def _be_a_play(self, host: str, channel: socket.socket, directory: Path) -> int:
        """In the forked process: keep nothing of the server's but the channel, and run."""
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        number = channel.fileno()
        os.set_inheritable(number, False)
        os.closerange(3, number)
        os.closerange(number + 1, 4096)
        os.environ[FLIGHT_MARK] = str(directory)
        return self._act(host, number, directory / "log")

    def _end(self, play: Play) -> None:
        play.leaving = True
        play.kill_at = self._monotonic() + self._manner.grace_s
        ask_to_end(play.pid)

    def _retire(self, play: Play) -> None:
        """Let a play that stands by end by itself: it sees its channel close."""
        play.leaving = True
        play.kill_at = self._monotonic() + _FAREWELL_S
        play.wire.socket.shutdown(socket.SHUT_WR)

    # Times

    def _idle(self) -> list[Play]:
        """Those that stand by, the one that waits longest first."""
        idle = [play for play in self._plays if play.flight is None and not play.leaving]
        return sorted(idle, key=lambda play: play.since)

    def _keep_times(self) -> None:
        now = self._monotonic()
        idle = self._idle()
        for place, play in enumerate(idle):
            if now - play.since >= self._manner.linger_s or len(idle) - place > self._manner.standing:
                self._retire(play)
        for play in self._plays:
            if play.kill_at is not None and now >= play.kill_at:
                kill_family(play.pid, play.mark)
                play.kill_at = now + 1.0

    def _pause(self) -> float | None:
        moments = [play.kill_at for play in self._plays if play.kill_at is not None]
        moments += [play.since + self._manner.linger_s for play in self._idle()]
        return max(0.0, min(moments) - self._monotonic()) if moments else None

    def _watch_senders(self) -> None:
        """Ask to be told when somebody who did not take all of a message can take more."""
        for key in list(self._selector.get_map().values()):
            wire = key.data.wire if key.data else self._daemon
            if key.fileobj is wire.socket:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.wants_to_send else 0)
                if events != key.events:
                    self._selector.modify(wire.socket, events, key.data)


def _reap_orphans(own: set[int]) -> None:
    """Bury processes that plays have left to us; plays themselves are buried when their end is noticed."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid in own:
                return
            os.waitpid(found.si_pid, 0)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main(arguments: list[str]) -> None:
    """`FD SETTINGS`: the daemon's end of the line, and how to work, as JSON."""
    descriptor, settings = int(arguments[0]), json.loads(arguments[1])
    # The daemon is asked to end, and this ends with it; a terminal or systemd may ask everybody at once.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    from mooring.handlers.warm import play  # half a second; errors of Ansible's end up in our log

    playbook = play.Playbook(Path(settings["playbook"]), Path(settings["inventory"]), settings["variables"])
    play.preload()
    manner = Manner(
        Path(settings["work_dir"]), *(settings[key] for key in ("grace_s", "linger_s", "standing"))
    )
    Server(
        socket.socket(fileno=descriptor),
        lambda host, channel, log: play.run_play(playbook, host, channel, log),
        manner,
    ).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
