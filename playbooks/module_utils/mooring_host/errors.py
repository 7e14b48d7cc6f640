"""Why one operation did not succeed: try again later, do not try again unchanged, or do not try again at all.

All carry one sentence for the operator.  They end one operation only; the other operations of the same call
go on.
"""

from __future__ import annotations


class OperationError(Exception):
    """One operation ended without its effect."""

    status = "retry"


class Retry(OperationError):
    """The host is not (yet) in a state in which this can work; the same request may succeed later."""


class Refused(OperationError):
    """The request itself is wrong or unsafe; repeating it unchanged cannot succeed."""

    status = "refused"


class Stale(OperationError):
    """Somebody with a higher epoch has been here; whoever asks is not in charge any more."""

    status = "stale"
