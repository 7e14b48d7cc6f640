"""What every app asks for, and what was wrong with it.

One bad app never touches another: its refusal is kept with the app, shown in `mooring status`, and its last
good claim stays in force.

An app whose file is rendered from another's members is told when that one's claim changes, and when it is
read for the first time since a start: until then nobody knew what its members are.

A name that one app has is refused to every other (`names` has the rules).  An app that held it by label makes
way when an app appears whose id reads so: from then on it goes under the name of its own id.  When a name
becomes free, the apps that were refused for it are read again, in the order of their ids.

So that the order in which apps are read decides nothing at a start, all ids of a listing are known before
the first label is read (`know`, `see`), and the names that the store says are shown are held already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from mooring.controller.names import Names, name_at, path_of, shown_path
from mooring.core.errors import LabelRefused
from mooring.core.labels import Claim, Rules, parse_claim
from mooring.core.model import App, AppId, Binding

_STEP = 20  # apps


class Claims:
    """The claims of all apps that Marathon knows."""

    def __init__(
        self,
        rules: Rules,
        bindings: Iterable[Binding] = (),
        changed: Callable[[AppId], None] = lambda app: None,
    ) -> None:
        """`bindings` tell who shows which name; `changed` is told of an app that another's claim concerns."""
        self._rules = rules
        self._changed = changed
        self._read: dict[AppId, App] = {}
        self._good: dict[AppId, Claim] = {}
        self._dependents: dict[AppId, set[AppId]] = {}  # source: the apps with a file made from it
        self._refusals: dict[AppId, str] = {}
        self._names = Names()
        self._waits: dict[AppId, AppId] = {}  # refused for its name: whose name that is
        self._gave_up: deque[AppId] = deque()  # apps that have let go of a name
        self._remember(bindings)

    @property
    def refusals(self) -> Mapping[AppId, str]:
        """One message for each app whose newest labels were refused."""
        return self._refusals

    def apps(self) -> Collection[AppId]:
        """The apps of which something is kept: labels, good or refused, or a name shown from before."""
        return self._names.apps()

    def know(self, apps: Iterable[AppId]) -> None:
        """All these apps exist: the names of their ids are theirs, whoever asks for them by label."""
        for app in sorted(apps):
            self._know(app)

    def see(self, apps: Iterable[AppId], app: Callable[[AppId], App | None]) -> Iterator[None]:
        """Read all apps, also those without instances, a few at each step; `app` has the newest of each."""
        listed = sorted(apps)
        self.know(listed)
        for number, id in enumerate(listed, start=1):
            if (newest := app(id)) is not None:
                self.of(newest)
            if number % _STEP == 0:
                yield

    def of(self, app: App) -> Claim | None:
        """The newest good claim of the app; None if it never had one."""
        if self._read.get(app.id) != app:
            first = app.id not in self._read
            self._know(app.id)
            self._read[app.id] = app
            self._take(app)
            self._serve_waiting()
            if first:
                self._tell_dependents(app.id)
        return self._good.get(app.id)

    def reconsider(self, rules: Rules) -> list[AppId]:
        """Other pools are in force: judge by these rules from now on; the apps whose answer changed."""
        self._rules = rules
        changed = []
        for id, app in list(self._read.items()):
            if "MOORING_POOL" not in app.labels:
                continue
            before = (self._good.get(id), self._refusals.get(id))
            self._take(app)
            if before != (self._good.get(id), self._refusals.get(id)):
                changed.append(id)
        self._serve_waiting()
        return changed

    def forget(self, app: AppId) -> None:
        """The app is no more."""
        for kept in (self._read, self._refusals, self._waits):
            kept.pop(app, None)
        self._put(app, None)
        self._names.forget(app)
        self._gave_up.append(app)
        self._serve_waiting()

    def dependents(self, app: AppId) -> set[AppId]:
        """The apps with a file that is rendered from this app's members."""
        return set(self._dependents.get(app, ()))

    def _remember(self, bindings: Iterable[Binding]) -> None:
        stored = sorted(bindings, key=lambda binding: binding.app)
        states = [(binding.app, state) for binding in stored for state in binding.sinks.values()]
        # A name that is only left over yields to a name that is wanted.
        shown = [(app, state.wanted) for app, state in states]
        shown += [(app, spec) for app, state in states for spec in state.shown]
        for app, spec in shown:
            if (path := shown_path(spec, self._rules.zone)) is not None:
                self._names.remember(app, path)

    def _know(self, app: AppId) -> None:
        for holder in self._names.know(app):
            if holder in self._read:
                self._take(self._read[holder])
                self._changed(holder)

    def _take(self, app: App) -> None:
        self._waits.pop(app.id, None)
        claim: Claim | None = None
        try:
            claim = parse_claim(app, self._rules)
            self._check_name(claim)
        except LabelRefused as error:
            self._refusals[app.id] = str(error)
            last = self._good.get(app.id, claim)
            if last is not None and self._names.has_lost(app.id):
                self._keep(replace(last, dns_name=None))
            return
        self._refusals.pop(app.id, None)
        self._keep(claim)

    def _check_name(self, claim: Claim) -> None:
        rival = self._names.rival(claim.app, path_of(claim))
        if rival is not None:
            path, self._waits[claim.app] = rival
            reason = f"{claim.dns_name}: the name {name_at(path)} is in use by {rival[1]}; set another one"
            raise LabelRefused(claim.app, "MOORING_DNS_NAME", reason)

    def _keep(self, claim: Claim) -> None:
        self._put(claim.app, claim)
        if self._names.hold(claim.app, path_of(claim)):
            self._gave_up.append(claim.app)

    def _put(self, app: AppId, claim: Claim | None) -> None:
        """Let this be the claim in force, and keep the index of dependents with it."""
        before = self._good.pop(app, None)
        for source in _sources(before):
            self._dependents[source].discard(app)
            if not self._dependents[source]:
                del self._dependents[source]
        for source in _sources(claim):
            self._dependents.setdefault(source, set()).add(app)
        if claim is not None:
            self._good[app] = claim
        if claim != before:
            self._tell_dependents(app)

    def _tell_dependents(self, app: AppId) -> None:
        for dependent in sorted(self.dependents(app)):
            self._changed(dependent)

    def _serve_waiting(self) -> None:
        while self._gave_up:
            giver = self._gave_up.popleft()
            for app in sorted(app for app, owner in self._waits.items() if owner == giver):
                self._take(self._read[app])
                if app not in self._waits:
                    self._changed(app)


def _sources(claim: Claim | None) -> set[AppId]:
    return {source for notice in claim.notices for source in notice.sources} if claim else set()
