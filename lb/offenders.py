"""Finding the services that make a balancer refuse a configuration.

The balancer's own checker is the only judge, and it judges whole files.  Halving the suspects finds b
bad services among n with about b * log2(n) checks; the good ones are then served without them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from mooring.lb.model import ServiceKey

Verdict = Callable[[Collection[ServiceKey]], Awaitable[str | None]]  # None: accepted; else the reason


async def offenders(
    judge: Verdict, suspects: Sequence[ServiceKey], trusted: Collection[ServiceKey]
) -> dict[ServiceKey, str]:
    """Which suspects must be left out so that the rest is accepted, each with the checker's words.

    `trusted` must be acceptable by itself; services that only clash with each other lose the later one.
    """
    reason = await judge({*trusted, *suspects}) if suspects else None
    if reason is None:
        return {}
    if len(suspects) == 1:
        return {suspects[0]: reason}
    half = len(suspects) // 2
    bad = await offenders(judge, suspects[:half], trusted)
    good = {*trusted, *suspects[:half]} - bad.keys()
    return bad | await offenders(judge, suspects[half:], good)
