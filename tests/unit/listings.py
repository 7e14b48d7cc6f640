"""Whole listings, cut and decoded as a snapshot does it, for tests that have one at hand."""

from __future__ import annotations

from mooring.cext import ArraySplitter
from mooring.controller.listing import AppListing, read_listed_app, read_listed_pod
from mooring.core.model import AppId, InstanceId


def elements(body: bytes, key: str | None) -> list[bytes]:
    """The elements of the array; raises ValueError if there is no such array, or it is not whole."""
    splitter = ArraySplitter(key)
    found = splitter.feed(body)
    splitter.close()
    return found


def read_apps(body: bytes, begun: float) -> dict[AppId, AppListing]:
    """A reply of `/v2/apps?embed=apps.tasks`."""
    listings = [read_listed_app(element, begun) for element in elements(body, "apps")]
    return {listing.id: listing for listing in listings}


def read_pods(body: bytes) -> dict[AppId, frozenset[InstanceId]]:
    """A reply of `/v2/pods/::status`."""
    return dict(map(read_listed_pod, elements(body, None)))
