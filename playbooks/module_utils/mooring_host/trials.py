"""What the kernel can do with queueing disciplines, found out by trying it.

Configuration files and lists of modules lie: a module may be missing, forbidden, or built without the part
that counts, and Open vSwitch then only writes a line into its log.  So each is really set on a veth pair in
a network namespace of its own, which vanishes with the thread that made it; nothing of the host is touched.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable

from .namespaces import CLONE_NEWNET
from .netlink import attribute
from .qdiscs import Qdiscs, shape_for

# Not every login has the directories of system programs on its path.
EVERYWHERE = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
DEVICE, PEER = "mtrial0", "mtrial1"
TIMEOUT_S = 5
TCA_HTB_INIT = 2
_libc = ctypes.CDLL(None, use_errno=True)


def try_out() -> dict[str, str]:
    """Name each ability with "" if it works, else with the reason why not."""
    found: dict[str, str] = {}
    thread = threading.Thread(target=_in_a_namespace_of_its_own, args=(found,), name="trials")
    thread.start()
    thread.join(4 * TIMEOUT_S)
    return {**dict.fromkeys(_TRIALS, "it was not found out in time"), **found}


def _in_a_namespace_of_its_own(found: dict[str, str]) -> None:
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "a network namespace of its own is not permitted")
        qdiscs = Qdiscs()
    except OSError as error:
        found.update(dict.fromkeys(_TRIALS, str(error)))
        return
    try:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            qdiscs.create_veth(DEVICE, PEER, own, "02:00:00:00:00:01", None)
        finally:
            os.close(own)
        index = qdiscs.links()[DEVICE].index
        for name, attempt in _TRIALS.items():
            found[name] = _reason(attempt, qdiscs, index)
    except OSError as error:
        for name in _TRIALS:
            found.setdefault(name, f"no veth pair could be made: {error}")
    finally:
        qdiscs.close()


def _reason(attempt: Callable[[Qdiscs, int], None], qdiscs: Qdiscs, index: int) -> str:
    try:
        attempt(qdiscs, index)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""


def _tbf(qdiscs: Qdiscs, index: int) -> None:
    wanted = shape_for(10_000_000, 1500)
    qdiscs.shape(index, wanted, 1500)
    if qdiscs.shapes().get(index) != wanted:
        raise OSError("the kernel took it and does not show it")
    qdiscs.unshape(index)


def _htb(qdiscs: Qdiscs, index: int) -> None:
    options = attribute(TCA_HTB_INIT, struct.pack("=IIIII", 3, 10, 1, 0, 0))
    qdiscs.put_root(index, 0x10000, "htb", options)


def _policing(qdiscs: Qdiscs, index: int) -> None:
    """As Open vSwitch sets it: a classifier at the ingress, with the action `police`."""
    tc = shutil.which("tc", path=EVERYWHERE)
    if tc is None:
        raise OSError("not found out: the program tc is missing")
    _run(tc, "qdisc", "add", "dev", DEVICE, "handle", "ffff:", "ingress")
    match = (tc, "filter", "add", "dev", DEVICE, "parent", "ffff:", "protocol", "all", "prio", "49")
    police = ("police", "rate", "10mbit", "burst", "100k", "conform-exceed", "drop")
    try:
        _run(*match, "matchall", "action", *police)
    except OSError:
        _run(*match, "basic", "action", *police)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise OSError(" ".join(done.stderr.split())[:200] or f"{words[0]} ended with {done.returncode}")


_TRIALS: dict[str, Callable[[Qdiscs, int], None]] = {"tbf": _tbf, "htb": _htb, "policing": _policing}
