"""Operations that most calls do not ask for, loaded when one does.

Starting Python and loading the program is the larger part of the time that one attach takes, and an attach
needs neither tunnels nor files.  The imports stand inside functions, as statements, because Ansible looks for
them to know what a module needs.
"""

from __future__ import annotations

from typing import Any

from .host import Host, Result


def fabric(host: Host, order: Any) -> Result:
    """See `fabric`."""
    from .fabric import fabric as act

    return act(host, order)


def gateway(host: Host, order: Any) -> Result:
    """See `gateway`."""
    from .gateway import gateway as act

    return act(host, order)


def adopt(host: Host, orders: list[Any]) -> list[Result]:
    """See `adopt`."""
    from .adopt import adopt as act

    return act(host, orders)


def write(host: Host, orders: list[Any]) -> list[Result]:
    """See `reloads`."""
    from .reloads import write as act

    return act(host, orders)


def probe(host: Host, orders: list[Any]) -> list[Result]:
    """See `probing`."""
    from .probing import probe as act

    return act(host, orders)


def observe(host: Host, order: Any) -> Result:
    """See `observe`."""
    from .observe import observe as act

    return act(host, order)


def check(host: Host, order: Any) -> Result:
    """See `capabilities`."""
    from .capabilities import check as act

    return act(host, order)


def survey(host: Host, order: Any) -> Result:
    """See `survey`."""
    from .survey import survey as act

    return act(host, order)
