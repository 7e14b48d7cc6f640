"""Limits that no attach asks about: cleaned up behind what is gone, restored behind a restart.

    record              port stands   meter, flow   then
    without rates       -             -             retire: flow, meter, record
    with rates          no            -             retire
    with a rate out     yes           missing       restore: meter, flow
    with rates          yes           stand         nothing

A restart of the switch daemon forgets meters and flows of all ports at once.  They are restored from the
records by the guardian, and by the next call that changes ports on the host, whichever port that is about.
Buckets outlive a restart.
"""

from __future__ import annotations

from .host import Host
from .limits import Book, Limit, book_of
from .metered_flows import delete_flows, put_flows
from .meters import Bridge, bridge_of, meter_for
from .switch import Switch


def keep_up_limits(host: Host) -> None:
    """Retire and restore; raises one of FAILURES for what the next call will have to do."""
    book = book_of(host)
    if not book.known:
        return
    switch, bridge = host.switch(), bridge_of(host)
    dead = book.dead(switch.ports)
    if dead:
        _retire(host, switch, bridge, book, dead)
    _restore(bridge, switch, [limit for limit in book.all() if limit not in dead])


def restore_limits(host: Host) -> None:
    """Restore alone, for whoever may not change what is recorded; raises one of FAILURES."""
    book = book_of(host)
    if book.known:
        switch = host.switch()
        dead = book.dead(switch.ports)
        _restore(bridge_of(host), switch, [limit for limit in book.all() if limit not in dead])


def _retire(host: Host, switch: Switch, bridge: Bridge, book: Book, dead: list[Limit]) -> None:
    transaction = host.change(switch)  # before anything is done: a call that was overtaken ends here
    delete_flows(bridge, [limit.port for limit in dead if limit.meter is not None])
    for limit in dead:
        if limit.meter is not None:
            bridge.delete(limit.meter)
    transaction.also(book.delete(dead))
    transaction.commit(host.database)


def _restore(bridge: Bridge, switch: Switch, limits: list[Limit]) -> None:
    metered = [limit for limit in limits if limit.rates.out is not None and limit.meter is not None]
    if not metered:
        return
    meters, uses = bridge.meters(), bridge.uses()
    flows: dict[str, tuple[int, int]] = {}
    for limit in metered:
        number, rate, ofport = limit.meter or 0, limit.rates.out or 0, switch.ports[limit.port].ofport
        if number not in meters:
            bridge.put(number, meter_for(rate), exists=False)
        if not uses.get(number) and ofport is not None:
            flows[limit.port] = (ofport, number)
    if flows:
        put_flows(bridge, flows)
