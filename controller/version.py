"""Which version runs: asked of the installed package, so that it is written down in one place only."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed version, or "unknown" when the code runs from a checkout that was never installed."""
    try:
        return metadata.version("mooring")
    except metadata.PackageNotFoundError:
        return "unknown"
