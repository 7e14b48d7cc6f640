"""The addresses of the agents, for apps that are balanced by host and host port.

Balancers must be given addresses, never names: one name that does not resolve blocks every other change
there.  The configuration can state them; other names are resolved in the background, and what waited
for the answer is woken.  A name that does not resolve is asked again later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping

import structlog

from mooring.core.clock import Clock
from mooring.core.model import HostName

log = structlog.get_logger(__name__)

_AGAIN_S = 30.0


class HostAddresses:
    """Host name to IPv4 address, without ever waiting."""

    def __init__(self, stated: Mapping[str, str], clock: Clock, resolved: Callable[[HostName], None]) -> None:
        """`resolved` is told when a host's address became known."""
        self._known: dict[str, str] = dict(stated)
        self._clock = clock
        self._resolved = resolved
        self._asking: dict[str, asyncio.Task[None]] = {}

    def __call__(self, host: HostName) -> str | None:
        """The address, or None while it is being looked up."""
        known = self._known.get(host)
        if known is None and host not in self._asking:
            if _is_address(host):
                return host
            self._asking[host] = asyncio.create_task(self._ask(host), name=f"resolve {host}")
        return known

    async def close(self) -> None:
        """End all look-ups."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _ask(self, host: HostName) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                answers = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
            except OSError as error:
                log.warning("host does not resolve", host=host, reason=str(error))
                await self._clock.sleep(_AGAIN_S)
                continue
            self._known[host] = str(answers[0][4][0])
            self._resolved(host)
            return


def _is_address(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
