"""Every error of ours, on one page.

    MooringError
    ├── Retryable          try again later: a host away, a name server busy, a pool waiting for a seat
    │   └── StoreBusy      the store did not take the write; nothing was written
    ├── Refused            trying again cannot help until a person changes something
    │   ├── LabelRefused   what an app owner asked for is not acceptable (names app, label and reason)
    │   ├── ConfigRefused  the configuration is wrong (carries every problem at once)
    │   └── LeaseConflict  an address would be in two hands; the store said no
    └── Fatal              this daemon must not go on; it ends, and a new start is the remedy
        ├── Fenced         a daemon with a higher epoch has taken over
        └── StoreBroken    nobody knows what the store took

Code that meets a library's error wraps it (`raise HostAway(...) from error`) in one of the first two roots,
because the only question a caller has is: again, or never?  `Fatal` is a root of its own, so that whoever
deals with those two does not swallow it.
"""

from __future__ import annotations

from collections.abc import Sequence


class MooringError(Exception):
    """Root of all errors raised on purpose."""


class Retryable(MooringError):
    """Failed now, may work later. `after_s` is a hint; None leaves the delay to the queue's back-off."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class StoreBusy(Retryable):
    """The store could not take a transaction; nothing of it was written."""


class Refused(MooringError):
    """Will fail again in the same way until somebody changes the cause."""


_LONGEST_REASON = 500


def check_reason(reason: str) -> None:
    """`Refused` unless a person's reason is one line that can be shown wherever it is asked for."""
    if not reason.strip() or not reason.isprintable() or len(reason) > _LONGEST_REASON:
        raise Refused(f"a reason is one printable line of 1 to {_LONGEST_REASON} characters")


class LabelRefused(Refused):
    """An app's label is unacceptable. The message names the app, the label and the reason."""

    def __init__(self, app: str, label: str, reason: str) -> None:
        super().__init__(f"app {app}: label {label}: {reason}")
        self.app = app
        self.label = label
        self.reason = reason


class ConfigRefused(Refused):
    """The configuration is unusable; `problems` has one line for each fault, all found at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Fatal(MooringError):
    """Going on could do harm. Nobody may swallow this: it ends the daemon."""


class Fenced(Fatal):
    """Somebody with a higher epoch has written; this daemon must stop making effects."""


class StoreBroken(Fatal):
    """The store failed in a way that leaves open what it took."""


class LeaseConflict(Refused):
    """The store refused a lease because the address or the slot is in another hand."""
