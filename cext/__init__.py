"""Byte-level work that deserves speed, behind one import.

This module is the only place that chooses an implementation; everybody else says
`from mooring.cext import Frame, Framer`.  The one in C serves where it was built, its twin in Python
everywhere else; both behave alike to the last error message.  The environment variable `MOORING_CEXT`
overrules that: `python` takes the twin, `c` insists on C and fails where it was not built.  An extension
that was built and cannot be loaded is an error, and no reason to be slow in silence.  `IMPLEMENTATION` says
which one serves.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mooring.cext.frame import DEFAULT_LIMIT, ElementTooLong, Frame

_ASKED_FOR = os.environ.get("MOORING_CEXT", "")
if _ASKED_FOR not in ("", "c", "python"):
    raise ImportError(f"MOORING_CEXT is {_ASKED_FOR!r}; set it to c or python, or leave it empty")

_NATIVE = f"{__name__}._native"
IMPLEMENTATION = "python"
if TYPE_CHECKING or _ASKED_FOR == "python":
    from mooring.cext._pure import Framer
    from mooring.cext._pure_array import ArraySplitter
else:
    try:
        from mooring.cext._native import ArraySplitter, Framer

        IMPLEMENTATION = "c"
    except ModuleNotFoundError as error:
        if error.name != _NATIVE:
            raise
        if _ASKED_FOR == "c":
            raise ImportError(
                f"MOORING_CEXT asks for C, but {_NATIVE} was not built: install gcc and Python's headers, "
                "then Mooring anew"
            ) from error
        from mooring.cext._pure import Framer
        from mooring.cext._pure_array import ArraySplitter
    except ImportError as error:
        raise ImportError(
            f"{_NATIVE} was built but cannot be loaded ({error}): install Mooring anew for this Python, "
            "or set MOORING_CEXT=python to do without it"
        ) from error

__all__ = ["DEFAULT_LIMIT", "IMPLEMENTATION", "ArraySplitter", "ElementTooLong", "Frame", "Framer"]
