"""Byte-level work that deserves speed, behind one import.

This module is the only place that chooses an implementation; everybody else says
`from mooring.cext import Frame, Framer`.
"""

from __future__ import annotations

from mooring.cext._pure import DEFAULT_LIMIT, Framer
from mooring.cext.frame import Frame

IMPLEMENTATION = "python"

__all__ = ["DEFAULT_LIMIT", "IMPLEMENTATION", "Frame", "Framer"]
