"""The real daemon with hands that never finish: `python tests/bench/stalled_daemon.py CONFIG COUNTER`.

Everything is what `mooring run` starts, but for two things.  Every sink waits for ever with the first
change it is given, and the agents' hosts are those of the in-memory twin, since there are none here to
answer a play (the inventory is read by Ansible all the same).  The number of events that the daemon has
merged stands in the first eight bytes of the file COUNTER at every moment, for whoever sends them.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mooring.controller import daemon, watch
from mooring.controller.events import Event
from mooring.controller.logs import configure
from mooring.controller.settings import load_settings
from mooring.core.sink import Change, Outcome
from mooring.handlers.memory_hosts import MemoryHosts
from tests.bench.synthetic_marathon import HOSTS


async def _never(changes: Sequence[Change]) -> Sequence[Outcome]:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class TwinRunner(MemoryHosts):
    """The agents' hosts in memory, with the end that a real runner has."""

    async def close(self) -> None:
        """Nothing runs."""


def stalled(build: Any) -> Any:
    """A builder of sinks whose sinks never answer a change."""

    def built(*args: Any) -> list[Any]:
        sinks: list[Any] = build(*args)
        for sink in sinks:
            sink.apply = _never
        return sinks

    return built


def count_into(path: Path) -> None:
    """From now on every merged event is counted there."""
    file = path.open("r+b")
    merged = ctypes.c_uint64.from_buffer(mmap.mmap(file.fileno(), 8))  # read and written in one piece
    merge = watch.Watch._merge_event

    def counted(self: watch.Watch, event: Event) -> None:
        merge(self, event)
        merged.value += 1

    watch.Watch._merge_event = counted  # type: ignore[method-assign]


def main() -> int:
    settings = load_settings(Path(sys.argv[1]))
    configure(settings.log.level, settings.log.format)
    count_into(Path(sys.argv[2]))
    daemon.host_sinks = stalled(daemon.host_sinks)
    daemon.edge_sinks = stalled(daemon.edge_sinks)
    daemon._ansible = lambda settings: TwinRunner(HOSTS)  # type: ignore[assignment,return-value]
    return daemon.run(settings)


if __name__ == "__main__":
    sys.exit(main())
