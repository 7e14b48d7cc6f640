"""Changes of the wanted state: every API call that alters apps comes through here.

The new definitions count at once (the API shows them, deleted apps are gone from it) while the
deployment brings the instances after.  Announced in Marathon's order: deployment_info, then
group_change_success; the caller adds api_post_event where one is due.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mooring.lab.marathon import definition, events
from mooring.lab.marathon.deployments import Change, Deployment, Deployments
from mooring.lab.marathon.errors import ApiError, Invalid, Unknown
from mooring.lab.marathon.model import App, Json, RunSpec
from mooring.lab.marathon.world import World


class WantedState:
    """The apps as clients want them."""

    def __init__(self, world: World, deployments: Deployments) -> None:
        """Store into the world, deploy by these deployments."""
        self._world = world
        self._deployments = deployments

    def app(self, app_id: str) -> App:
        """The app, or `Unknown`."""
        app = self._world.apps.get(definition.absolute(app_id))
        if app is None:
            raise Unknown("App", definition.absolute(app_id))
        return app

    def create(self, raw: Json, *, force: bool) -> Deployment:
        """POST /v2/apps: a new app."""
        if isinstance(raw.get("id"), str) and definition.absolute(raw["id"]) in self._world.apps:
            app_id = definition.absolute(raw["id"])
            raise ApiError(409, {"message": f"An app with id [{app_id}] already exists."})
        return self.put([raw], partial=False, force=force)

    def put(
        self, updates: Sequence[Json], *, partial: bool, force: bool, group: str | None = None
    ) -> Deployment:
        """Create or change apps together, in one deployment."""
        version = self._world.versions.next()
        changes: list[Change] = []
        taken = {app.id: definition.service_ports(app.spec.definition) for app in self._world.apps.values()}
        for update in updates:
            change = self._change(update, version, taken, partial=partial)
            assert change.after is not None, "an update leaves a definition behind"
            taken[change.app.id] = definition.service_ports(change.after)
            changes.append(change)
        return self._commit(changes, version, group, force=force)

    def restart(self, app_id: str, *, force: bool) -> Deployment:
        """POST /v2/apps/{id}/restart: the same definition under a new version."""
        app, version = self.app(app_id), self._world.versions.next()
        after = {**app.spec.definition, "version": version, "versionInfo": _version_info(app, version)}
        return self._commit(
            [Change(app, app.spec.definition, after, restart=True)], version, None, force=force
        )

    def scale_down(self, doomed: dict[str, set[str]], *, force: bool) -> Deployment:
        """Kill with scale: exactly these instances, by app id."""
        version, changes = self._world.versions.next(), []
        for app_id, instance_ids in doomed.items():
            app = self.app(app_id)
            instances = max(0, app.spec.instances - len(instance_ids))
            info = _version_info(app, version)
            after = {**app.spec.definition, "instances": instances, "version": version, "versionInfo": info}
            changes.append(Change(app, app.spec.definition, after, doomed=frozenset(instance_ids)))
        return self._commit(changes, version, None, force=force)

    def delete(self, app_ids: Collection[str], *, force: bool, group: str | None = None) -> Deployment:
        """DELETE of apps or of a group."""
        version = self._world.versions.next()
        changes = [Change(app := self.app(app_id), app.spec.definition, None) for app_id in app_ids]
        return self._commit(changes, version, group, force=force)

    def _change(self, update: Json, version: str, taken: dict[str, list[int]], *, partial: bool) -> Change:
        if not isinstance(update, dict):
            raise Invalid([{"path": "/", "errors": ["error.expected.jsobject"]}])
        app = self._world.apps.get(definition.absolute(str(update.get("id", ""))))
        before = app.spec.definition if app else None
        raw = definition.merged(before, update) if before and partial else update
        others = {
            port for app_id, ports in taken.items() if app is None or app_id != app.id for port in ports
        }
        after = definition.normalised(raw, before, others)
        if app is not None and before is not None:
            same = definition.is_same_config(before, after)
            if same and before["instances"] == after["instances"]:
                return Change(app, before, before)
            info = _version_info(app, version) if same else _fresh_info(version)
            return Change(app, before, {**after, "version": version, "versionInfo": info})
        after = {**after, "version": version, "versionInfo": _fresh_info(version)}
        return Change(App(RunSpec(after)), None, after)

    def _commit(
        self, changes: Sequence[Change], version: str, group: str | None, *, force: bool
    ) -> Deployment:
        group_id = group or (parent(changes[0].app.id) if len(changes) == 1 else "/")
        self._deployments.make_way(changes, group_id, version, force=force)
        for change in changes:
            self._store(change)
        deployment = self._deployments.begin(changes, version)
        self._world.publish(events.group_change_success(group_id, version))
        self._world.changes.notify()
        return deployment

    def _store(self, change: Change) -> None:
        app = change.app
        if change.after is None:
            del self._world.apps[app.id]
            self._world.leaving.append(app)
        else:
            app.spec = RunSpec(change.after)
            self._world.apps[app.id] = app


def parent(app_id: str) -> str:
    """The group an app is in."""
    return app_id.rpartition("/")[0] or "/"


def _version_info(app: App, version: str) -> Json:
    return {**app.spec.definition["versionInfo"], "lastScalingAt": version}


def _fresh_info(version: str) -> Json:
    return {"lastScalingAt": version, "lastConfigChangeAt": version}
