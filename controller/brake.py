"""The brake: whether instances that are missing without evidence may be taken for gone.

Absence is the weakest evidence, and a wrong or half-empty reply looks just like it.  So after every
listing that was merged whole, the absences that nothing explains are judged together:

    brake   absent without evidence                             then
    -----   -------------------------------------------------   --------------------------------------------
    off     none                                                off
    off     any, or any app, and the listing was empty          on: an empty listing removes nothing by itself
    off     more than `share` of `least` or more instances      on
    off     fewer                                               off: two agreeing listings are enough
    on      none of those held,                                 judged anew, as if it had been off
    on      any of those held                                   on, for those that are newly absent, too

Empty is a listing without apps, whatever pods there are: those come in an answer of their own.  Apps are held
like instances, and like them keep the brake on.  How many of them are absent from a listing that is not empty
does not put it on: of an app without instances, two agreeing listings decide.

While the brake is on, `View` lets nothing go that is merely absent.  What has ended, is inactive or belongs
to an app that the stream says is being deleted never comes here: it goes as if there were no brake, and what
is new is taken up.  The brake goes off by itself when everything held was listed again or has properly ended,
and otherwise only by an operator's word.  The reason keeps its text for as long as no more are held than it
says, so that an answer that is wrong again and again does not fill the log.

Pure; times are monotonic seconds.
"""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """How much may be absent at once."""

    share: float = 0.3  # of all instances that are not gone
    least: int = 10  # with fewer instances than these, a share says little


class Absence(msgspec.Struct, frozen=True):
    """What a listing left unexplained."""

    held: int  # instances that are absent, and held before this listing
    new: int  # instances that are absent since, or not yet judged
    known: int  # all instances that are not gone, the absent included
    held_apps: int = 0  # apps that are absent, and held before this listing
    apps: int = 0  # all apps that are absent, the held ones included
    empty: bool = False  # the listing had no apps


class Brake(msgspec.Struct, frozen=True):
    """The brake while it is on."""

    reason: str
    since: float
    most: int  # the greatest number of instances held; the reason names it
    most_apps: int = 0  # the same of apps


def judge(brake: Brake | None, absence: Absence, limits: Limits, now: float) -> Brake | None:
    """The brake after a listing, None while it is off: the table above."""
    if absence.held == 0 and absence.held_apps == 0:
        brake = None
    if brake is None and not _too_many(absence, limits):
        return None
    absent = absence.held + absence.new
    if brake is not None and absent <= brake.most and absence.apps <= brake.most_apps:
        return brake
    return Brake(_reason(absent, absence), now if brake is None else brake.since, absent, absence.apps)


def _too_many(absence: Absence, limits: Limits) -> bool:
    absent = absence.held + absence.new
    if absence.empty:
        return absent > 0 or absence.apps > 0
    return absence.known >= limits.least and absent > limits.share * absence.known


def _reason(absent: int, absence: Absence) -> str:
    missing = f"{absent} of {absence.known} instances"
    if absence.apps:
        missing += f" and {absence.apps} {'app' if absence.apps == 1 else 'apps'}"
    if absence.empty:
        return f"Marathon's listing is empty, but {missing} are known that have not ended"
    return f"{missing} are missing from Marathon's listing without having ended"
