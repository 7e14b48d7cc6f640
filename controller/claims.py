"""What every app asks for, and what was wrong with it.

One bad app never touches another: its refusal is kept with the app, shown in `mooring status`, and its last
good claim stays in force.  A name that one app has is refused to every other, whether it was derived
from the app's id or asked for by label; otherwise an app could slip its addresses into a name that
clients of another one trust.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mooring.core.errors import LabelRefused
from mooring.core.labels import Claim, Rules, parse_claim
from mooring.core.model import App, AppId


class Claims:
    """The claims of all apps that Marathon knows."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._read: dict[AppId, App] = {}
        self._good: dict[AppId, Claim] = {}
        self._names: dict[str, AppId] = {}
        self._refusals: dict[AppId, str] = {}

    @property
    def refusals(self) -> Mapping[AppId, str]:
        """One message for each app whose newest labels were refused."""
        return self._refusals

    def apps(self) -> Collection[AppId]:
        """The apps whose labels are kept, good or refused."""
        return self._read.keys()

    def of(self, app: App) -> Claim | None:
        """The newest good claim of the app; None if it never had one."""
        if self._read.get(app.id) != app:
            self._read[app.id] = app
            self._take(app)
        return self._good.get(app.id)

    def refuse(self, app: AppId, reason: str) -> None:
        """Something the app asked for turned out to be impossible later."""
        self._refusals[app] = reason

    def forget(self, app: AppId) -> None:
        """The app is no more."""
        self._read.pop(app, None)
        self._refusals.pop(app, None)
        claim = self._good.pop(app, None)
        if claim is not None and self._names.get(_name(claim)) == app:
            del self._names[_name(claim)]

    def dependents(self, app: AppId) -> set[AppId]:
        """The apps with a file that is rendered from this app's members."""
        return {
            claim.app
            for claim in self._good.values()
            if any(app in notice.sources for notice in claim.notices)
        }

    def _take(self, app: App) -> None:
        try:
            claim = parse_claim(app, self._rules)
            holder = self._names.get(_name(claim), app.id)
            if holder != app.id:
                label = "MOORING_DNS_NAME" if claim.dns_name else "MOORING_POOL"
                raise LabelRefused(
                    app.id, label, f"the name {_name(claim)} is in use by {holder}; set another one"
                )
        except LabelRefused as error:
            self._refusals[app.id] = str(error)
            return
        self._refusals.pop(app.id, None)
        earlier = self._good.get(app.id)
        if earlier is not None:
            self._names.pop(_name(earlier), None)
        self._good[app.id] = claim
        if claim.pool is not None:
            self._names[_name(claim)] = app.id


def _name(claim: Claim) -> str:
    return claim.dns_name or ".".join(reversed(claim.app.strip("/").split("/")))
