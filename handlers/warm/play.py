"""One play, in a process forked for it; and what of Ansible is loaded before, once for all.

A play is what `ansible-playbook --limit HOST host.yml` does, run by the class behind that command.  Its only
task stands by on the channel (see `playbooks/action_plugins/mooring_host.py`), so the play lasts as long as
somebody may want it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible.cli.playbook import PlaybookCLI
from ansible.plugins import loader

# Whatever a play looks up by name is found, read and its options parsed before the fork instead of after it.
_PRELOADED = (
    loader.connection_loader,
    loader.callback_loader,
    loader.inventory_loader,
    loader.shell_loader,
    loader.become_loader,
    loader.strategy_loader,
    loader.vars_loader,
    loader.cache_loader,
)


@dataclass(frozen=True)
class Playbook:
    """What is run: the file, the inventory, and variables that every play gets."""

    path: Path
    inventory: Path
    variables: Mapping[str, object]


def preload() -> None:
    """Load what plays need; it then costs them nothing."""
    import ansible.executor.playbook_executor
    import ansible.plugins.action
    import ansible.plugins.strategy.linear  # noqa: F401

    for plugins in _PRELOADED:
        for _ in plugins.all(class_only=True):
            pass


def run_play(playbook: Playbook, host: str, channel: int, log: Path) -> int:
    """Run the play in this process, which was forked for it; its exit status. What it says is in `log`."""
    _settle_in(log)
    variables = json.dumps({**playbook.variables, "mooring_channel": channel})
    words = ["ansible-playbook", "--inventory", str(playbook.inventory), f"--limit={host}"]
    words += ["--extra-vars", variables, str(playbook.path)]
    try:
        play = PlaybookCLI(words)
        play.parse()
        return int(play.run() or 0)
    except BaseException as error:  # also SystemExit: nothing of this process may go on in the server's code
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        print(f"{type(error).__name__}: {error}")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _settle_in(log: Path) -> None:
    """A session of its own, the signals' usual meaning, and its output in a file."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
        os.close(source) if source != output else None
    os.close(output)
