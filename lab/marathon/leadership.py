"""Who leads, and the failover switch.

A failover closes every stream.  For the given time `/v2/events` answers 302 (this node is a standby)
or 503 (nobody leads), nothing is decided or reported, and then another name leads: health is unknown
until probed again, nothing is replayed, unfinished deployments are announced anew under their ids.
The framework id stays.
"""

from __future__ import annotations

import asyncio

from mooring.lab.marathon.deployments import Deployments
from mooring.lab.marathon.world import World


class Leadership:
    """The present leader's name, or what is answered while there is none."""

    def __init__(self, world: World, deployments: Deployments) -> None:
        """Begin as leader."""
        self._world = world
        self._deployments = deployments
        self._term = 1
        self.answer: int | None = None  # status of /v2/events while this node does not lead

    @property
    def leader(self) -> str:
        """`host:port` of the present leader; another one after each failover."""
        return f"marathon-{self._term}.lab:{self._world.settings.listen_port}"

    def begin(self, seconds: float, answer: int) -> None:
        """Lose leadership for so long, then lead under a new name."""
        self._world.leading.clear()
        self.answer = answer
        self._world.bus.cut()
        self._term += 1
        self._world.spawn(self._return_after(seconds), "failover")

    async def _return_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for app in self._world.every_app():
            for instance in app.instances.values():
                instance.forget_health()
        self.answer = None
        self._world.leading.set()
        self._deployments.announce_again()
        self._world.changes.notify()
