"""Shaping one device: a token bucket (TBF) at its root, set and read back by netlink.

A shaper lets a packet wait where a policer drops it, and TCP needs that: behind a policer alone it reaches
half of the rate.  The bucket holds `BURST_S` of the rate, because the kernel wakes up late now and then and
what it missed must not be lost; the queue behind it holds `QUEUE_S`, beyond which a sender had better hear
of a loss. At low rates both are some whole frames instead.

Our bucket is known by its handle; any other queueing discipline is somebody else's and is not taken away.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from .netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Netlink, attribute, attributes, text

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_H_ROOT = 0xFFFFFFFF
LINKLAYER_ETHERNET = 1
HANDLE = 0x6D6F0000  # "mo"
FRAME_OVERHEAD = 18  # bytes of an Ethernet header with a VLAN tag
BURST_S, QUEUE_S = 0.01, 0.1
BURST_FRAMES, QUEUE_FRAMES = 4, 16


@dataclass(frozen=True)
class Shape:
    """A token bucket: `rate` in bytes a second, `queue` in bytes."""

    rate: int
    queue: int


def shape_for(rate: int, mtu: int) -> Shape:
    """The bucket for a rate in bit/s on a device with that MTU."""
    return Shape(rate // 8, max(int(rate / 8 * QUEUE_S), QUEUE_FRAMES * (mtu + FRAME_OVERHEAD)))


def _burst(shape: Shape, mtu: int) -> int:
    return max(int(shape.rate * BURST_S), BURST_FRAMES * (mtu + FRAME_OVERHEAD))


class Qdiscs(Netlink):
    """The queueing disciplines of the namespace that was current when this was made."""

    def shapes(self) -> dict[int, Shape]:
        """Our buckets by the index of their device."""
        found: dict[int, Shape] = {}
        for body in self._request(RTM_GETQDISC, NLM_F_DUMP, _header(0)):
            _, index, handle, parent, _ = struct.unpack_from("=B3xiIII", body)
            values = attributes(body[20:])
            if (handle, parent, values.get(TCA_KIND)) == (HANDLE, TC_H_ROOT, text("tbf")):
                found[index] = _shape(attributes(values.get(TCA_OPTIONS, b"")))
        return found

    def shape(self, index: int, shape: Shape, mtu: int) -> None:
        """Set or change the bucket of a device; raises OSError, with ENOENT where the kernel has no TBF."""
        rate = struct.pack("=BBHhHI", 0, LINKLAYER_ETHERNET, 0, 0, 0, min(shape.rate, 0xFFFFFFFF))
        parameters = rate + bytes(12) + struct.pack("=III", shape.queue, 0, 0)
        options = attribute(TCA_TBF_PARMS, parameters)
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", shape.rate))
        options += attribute(TCA_TBF_BURST, struct.pack("=I", _burst(shape, mtu)))
        self.put_root(index, HANDLE, "tbf", options)

    def put_root(self, index: int, handle: int, kind: str, options: bytes) -> None:
        """Put a queueing discipline at the root of a device; one of the same handle is changed in place."""
        body = _header(index, handle) + attribute(TCA_KIND, text(kind)) + attribute(TCA_OPTIONS, options)
        self._change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)

    def unshape(self, index: int) -> bool:
        """Take our bucket away; False if there was none."""
        try:
            self._change(RTM_DELQDISC, 0, _header(index, HANDLE))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                return False
            raise
        return True


def _header(index: int, handle: int = 0) -> bytes:
    return struct.pack("=B3xiIII", 0, index, handle, TC_H_ROOT, 0)


def _shape(options: dict[int, bytes]) -> Shape:
    parameters = options.get(TCA_TBF_PARMS, bytes(36))
    (rate,) = struct.unpack_from("=I", parameters, 8)
    if TCA_TBF_RATE64 in options:  # the kernel tells it only where the other is too small
        (rate,) = struct.unpack("=Q", options[TCA_TBF_RATE64])
    (queue,) = struct.unpack_from("=I", parameters, 24)
    return Shape(rate, queue)
