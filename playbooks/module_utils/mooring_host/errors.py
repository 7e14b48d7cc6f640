"""Why one operation did not succeed: try again later, or do not try again unchanged.

Both carry one sentence for the operator.  They end one operation only; the other operations of the same call
go on.
"""

from __future__ import annotations


class OperationError(Exception):
    """One operation ended without its effect."""

    status = "retry"


class Retry(OperationError):
    """The host is not (yet) in a state in which this can work; the same request may succeed later."""


class Refused(OperationError):
    """The request itself is wrong, stale or unsafe; repeating it unchanged cannot succeed."""

    status = "refused"
