"""How this daemon's plays are run: warm or one by one, and the program that makes them quick on the hosts.

A host whose flight had to be done by the module lacks the program, or has another version of it.  It then
gets ours in the background (`install.yml`).  A host where that fails is tried again after `_AGAIN_S`, and
goes on being served by the module meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import structlog

from mooring.controller.settings import Settings
from mooring.core.clock import Clock
from mooring.core.errors import MooringError
from mooring.handlers.ansible import AnsibleRunner
from mooring.handlers.hosts import Runner
from mooring.handlers.plays import Flying
from mooring.handlers.warm.runner import WarmRunner

log = structlog.get_logger(__name__)

_AGAIN_S = 300.0
_AT_ONCE = 2  # installations: the plays that serve containers come first


class HelperCare:
    """Sees to it that hosts have the program."""

    def __init__(self, install: Callable[[str], Awaitable[None]], clock: Clock) -> None:
        self._install = install
        self._clock = clock
        self._tried: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(_AT_ONCE)

    def helped(self, host: str, version: str) -> None:
        """A flight ended on the host, done by this version of the program; "": by the module."""
        if version:
            self._tried.pop(host, None)
        elif self._clock.monotonic() >= self._tried.get(host, 0.0):
            self._tried[host] = self._clock.monotonic() + _AGAIN_S
            task = asyncio.create_task(self._give(host), name=f"install on {host}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _give(self, host: str) -> None:
        try:
            async with self._turn:
                await self._install(host)
        except MooringError as error:
            log.warning("program not installed", host=host, reason=str(error), again_in_s=_AGAIN_S)
        else:
            log.info("program installed", host=host)


def open_plays(settings: Settings, clock: Clock, stack: AsyncExitStack) -> Runner:
    """The runner of the configuration; it is closed with the stack."""
    ansible = settings.ansible
    flying = Flying(
        ansible.inventory,
        settings.owner,
        ansible.bridge,
        ansible.helper_dir,
        wiring=ansible.wiring,
        clean_pipework=ansible.clean_pipework,
        timeout_s=ansible.play_timeout_s,
        connect_timeout_s=ansible.connect_timeout_s,
        parallel=ansible.parallel,
    )
    single = AnsibleRunner(flying)
    stack.push_async_callback(single.close)
    care = HelperCare(single.install, clock)
    stack.push_async_callback(care.close)
    if ansible.install_helper:
        single.helped = care.helped
    if ansible.mode == "runner":
        return single
    warm = WarmRunner(flying, linger_s=ansible.linger_s, helped=single.helped)
    stack.push_async_callback(warm.close)
    return warm
