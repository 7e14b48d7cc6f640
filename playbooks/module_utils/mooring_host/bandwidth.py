"""Keep what containers send and receive below what their app asked for.

    direction    who waits                            who drops
    to it        a bucket on the host's end           the same bucket, when its queue is full
    from it      a bucket on its own interface        a meter in the switch, out of its reach

The bucket inside shapes: behind a meter alone TCP reaches half of the rate.  The meter keeps the promise to
the others: a container with NET_ADMIN can remove the bucket.  (Ingress policing could do a meter's work; it
needs a classifier that kernels lack without saying so, and a userspace switch reads frames before it.)

    1. compare     records, buckets, meters and the flows through them; what is right is left alone
    2. record      in one fenced transaction, before anything is made that must be found again (`limits`)
    3. make        buckets, meters, flows: in place, the port and its traffic are not touched
    4. read back   what does not stand is an error of that port alone
    5. keep up     at the end of the call, whatever it was about (`upkeep`)

A rate counts whole Ethernet frames.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import OperationError, Retry
from .host import APPLY_TIMEOUT_S, FAILURES, Host, Result, failure
from .limits import Book, Limit, Rates, book_of, cannot_limit
from .metered_flows import delete_flows, put_flows
from .meters import bridge_of, free_number, meter_for
from .namespaces import NetworkNamespace
from .orders import Attach
from .qdiscs import Qdiscs, Shape, shape_for
from .switch import Switch


class Job(Protocol):
    """An attach whose port stands; `limited` tells afterwards whether a limit was changed."""

    order: Attach
    namespace: NetworkNamespace
    result: Result | None
    limited: bool

    @property
    def port(self) -> str:
        """Its port on the switch."""

    @property
    def interface(self) -> str:
        """What the container calls it."""


@dataclass
class _Share:
    """One port and what it is limited to."""

    job: Job
    port: str
    rates: Rates
    known: Limit | None
    meter: int | None = None

    @property
    def recorded(self) -> bool:
        """Whether the record says what it shall."""
        if self.known is None:
            return not self.rates.any
        same = (self.known.rates, self.known.meter) == (self.rates, self.meter)
        return same and self.known.held == self.rates.any


def set_limits(host: Host, jobs: Sequence[Job]) -> None:
    """Steps 1 to 4 for ports that stand; sets `limited`, and `result` where it did not succeed.

    A port without a limit never ends because of another's; one of FAILURES is raised only where the records
    cannot be read.
    """
    book = book_of(host)
    shares = [_share(job, book) for job in jobs]
    shares = [share for share in shares if share.rates.any or share.known is not None]
    if not shares:
        return
    if host.settings.check:
        for share in shares:
            share.job.limited = share.known is None or share.known.rates != share.rates
        return
    limiter = _Limiter(host, book)
    try:
        limiter.limit(shares)
    except FAILURES as error:
        for share in shares:
            share.job.result = share.job.result or failure(share.job.order.id, error)
    finally:
        limiter.close()


def standing_rates(host: Host) -> dict[str, Rates]:
    """What really is limited, out of the containers' reach, by port; what cannot be read does not stand."""
    book = book_of(host)
    limits = [limit for port in book.known if (limit := book.limit_of(port)) is not None]
    if not limits:
        return {}
    devices, shapes = host.devices(), _shapes()
    try:
        meters, uses = bridge_of(host).meters(), bridge_of(host).uses()
    except OperationError:
        meters, uses = {}, {}
    found: dict[str, Rates] = {}
    for limit in limits:
        out, into, device = limit.rates.out, limit.rates.into, devices.get(limit.port)
        metered = out and limit.meter and meters.get(limit.meter) == meter_for(out) and uses.get(limit.meter)
        shaped = into and device and shapes.get(device.index) == shape_for(into, device.mtu)
        found[limit.port] = Rates(out if metered else None, into if shaped else None)
    return found


def _shapes() -> dict[int, Shape]:
    qdiscs = Qdiscs()
    try:
        return qdiscs.shapes()
    finally:
        qdiscs.close()


def _share(job: Job, book: Book) -> _Share:
    rates = Rates(job.order.rate_out, job.order.rate_in)
    known = book.limit_of(job.port)
    return _Share(job, job.port, rates, known, known.meter if known else None)


class _Limiter:
    """Steps 1 to 4 of one call."""

    def __init__(self, host: Host, book: Book) -> None:
        self._host = host
        self._book = book
        self._bridge = bridge_of(host)
        self._switch: Switch = host.switch()
        self._devices = host.devices()
        self._qdiscs = Qdiscs()
        self._shapes = self._qdiscs.shapes()
        self._meters: dict[int, object] = {}
        self._uses: dict[int, int] = {}

    def close(self) -> None:
        """Close the socket."""
        self._qdiscs.close()

    def limit(self, shares: list[_Share]) -> None:
        """All steps for all ports."""
        shares = self._choose_meters(shares)
        self._record(shares)
        shares = _each(shares, self._shape_outside)
        shares = _each(shares, self._shape_inside)
        self._meter(_each(shares, self._put_meter))
        changed = [share for share in shares if share.job.limited and share.job.result is None]
        if changed:
            self._read_meters(changed)
            _each(changed, self._check)

    def _read_meters(self, shares: list[_Share]) -> None:
        if any(share.meter is not None or share.rates.out is not None for share in shares):
            self._meters, self._uses = dict(self._bridge.meters()), self._bridge.uses()

    def _choose_meters(self, shares: list[_Share]) -> list[_Share]:
        """Give a meter's number to each port that needs one; without meters what it asks for is refused."""
        self._read_meters(shares)
        new = [share for share in shares if share.rates.out is not None and share.meter is None]
        if not new:
            return shares
        highest, taken = self._bridge.highest(), {*self._meters, *self._book.taken()}

        def choose(share: _Share) -> None:
            if highest == 0:
                raise cannot_limit(
                    "its switch has no OpenFlow meters", "upgrade its kernel (4.15) or its switch"
                )
            share.meter = free_number(share.port, taken, highest)
            taken.add(share.meter)

        _each(new, choose)
        return [share for share in shares if share.job.result is None]

    def _record(self, shares: list[_Share]) -> None:
        """Step 2; raises what the transaction raises."""
        operations = []
        for share in shares:
            if not share.recorded:
                operations += self._book.write(share.port, share.rates, share.meter)
                share.job.limited = True
        if not operations:
            return
        transaction = self._host.change(self._switch)
        transaction.also(operations)
        wanted = transaction.commit(self._host.database)
        # The daemon has to have let go of the port's queueing discipline before ours is put there.
        if not self._host.database.wait_applied(wanted, APPLY_TIMEOUT_S):
            raise Retry(f"ovs-vswitchd did not take the limits within {APPLY_TIMEOUT_S:g} s")

    def _shape_outside(self, share: _Share) -> None:
        device = self._devices.get(share.port)
        if device is None:
            raise Retry(f"the device {share.port} vanished while its bandwidth was being limited")
        self._shape(share, self._qdiscs, self._shapes, device.index, device.mtu, share.rates.into)

    def _shape_inside(self, share: _Share) -> None:
        with share.job.namespace.entered():
            qdiscs = Qdiscs()
        try:
            link = qdiscs.links().get(share.job.interface)
            if link is None:
                raise Retry("the container stopped while its bandwidth was being limited")
            self._shape(share, qdiscs, qdiscs.shapes(), link.index, link.mtu, share.rates.out)
        finally:
            qdiscs.close()

    @staticmethod
    def _shape(
        share: _Share, qdiscs: Qdiscs, shapes: dict[int, Shape], index: int, mtu: int, rate: int | None
    ) -> None:
        """Make one bucket what it shall be."""
        wanted = None if rate is None else shape_for(rate, mtu)
        if shapes.get(index) == wanted:
            return
        share.job.limited = True
        if wanted is None:
            qdiscs.unshape(index)
            return
        try:
            qdiscs.shape(index, wanted, mtu)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                raise cannot_limit("its kernel has no token bucket", "install the module sch_tbf") from error
            raise
        if qdiscs.shapes().get(index) != wanted:
            raise Retry(f"the bandwidth limit of port {share.port} was not taken by the kernel")

    def _put_meter(self, share: _Share) -> None:
        """The meter of a port; its flow comes afterwards, with all others."""
        if share.meter is None:
            return
        if share.rates.out is None:
            if self._uses.get(share.meter):
                share.job.limited = True
                delete_flows(self._bridge, [share.port])
            return
        wanted = meter_for(share.rates.out)
        if self._meters.get(share.meter) != wanted:
            share.job.limited = True
            self._bridge.put(share.meter, wanted, exists=share.meter in self._meters)

    def _meter(self, shares: list[_Share]) -> None:
        """Send what the ports say through their meters, where nothing does yet."""
        flows: dict[str, tuple[int, int]] = {}
        for share in shares:
            port = self._switch.ports.get(share.port)
            unused = share.meter is not None and not self._uses.get(share.meter)
            if share.rates.out is not None and unused and port is not None and port.ofport is not None:
                share.job.limited = True
                flows[share.port] = (port.ofport, share.meter or 0)
        if flows:
            put_flows(self._bridge, flows)

    def _check(self, share: _Share) -> None:
        """Step 4: what stands now, read from the kernel and from the switch."""
        out = share.rates.out
        if out is None:
            return
        metered = share.meter is not None and self._meters.get(share.meter) == meter_for(out)
        if not metered or not self._uses.get(share.meter or 0):
            raise Retry(f"the switch does not meter port {share.port}, although it was told to")


def _each(shares: list[_Share], step: Callable[[_Share], None]) -> list[_Share]:
    """Run a step for each port; returns those that are still going."""
    for share in shares:
        if share.job.result is None:
            try:
                step(share)
            except FAILURES as error:
                share.job.result = failure(share.job.order.id, error)
    return [share for share in shares if share.job.result is None]
