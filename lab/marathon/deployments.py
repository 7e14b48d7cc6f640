"""Deployments: which steps lead from one set of apps to another, who holds an app, what is announced.

`plan` is pure: stop what is gone, start what is new with no instance, then scale or restart.  A
running deployment locks its apps; a conflicting change is refused, and announced as a failed group
change and a failed deployment that never started, unless it is forced, which cancels the holder.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mooring.lab.marathon import events
from mooring.lab.marathon.definition import is_same_config
from mooring.lab.marathon.errors import Locked
from mooring.lab.marathon.model import App, Json
from mooring.lab.marathon.rollout import Rollout
from mooring.lab.marathon.world import World

CANCELLED = "The upgrade has been cancelled"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Action:
    """One action on one app."""

    kind: str  # Start, Stop, Scale, Restart
    app: App

    def shown(self) -> Json:
        """As events show it."""
        return {"action": f"{self.kind}Application", "app": self.app.id}


@dataclass(frozen=True, slots=True)
class Change:
    """One app before (None: new) and after (None: deleted)."""

    app: App
    before: Json | None
    after: Json | None
    restart: bool = False
    doomed: frozenset[str] = frozenset()  # instances a scale-down has to take first

    def kinds(self) -> tuple[str, ...]:
        """The actions it needs, in order of the steps they belong to."""
        if self.after is None:
            return ("Stop",)
        if self.before is None:
            return ("Start", "Scale")
        if self.restart or not is_same_config(self.before, self.after):
            return ("Restart",)
        return ("Scale",) if self.before["instances"] != self.after["instances"] else ()


Step = tuple[Action, ...]


def plan(changes: Collection[Change]) -> list[Step]:
    """The steps for these changes, empty ones left out."""
    steps: list[Step] = []
    for kinds in (("Stop",), ("Start",), ("Scale", "Restart")):
        step = tuple(
            Action(kind, change.app) for change in changes for kind in change.kinds() if kind in kinds
        )
        if step:
            steps.append(step)
    return steps


@dataclass(slots=True, eq=False)
class Deployment:
    """One plan on its way."""

    version: str
    steps: list[Step]
    doomed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    current: int = 0  # index of the step being done
    task: asyncio.Task[None] | None = None

    @property
    def app_ids(self) -> list[str]:
        """The apps it holds, each once."""
        return list(dict.fromkeys(action.app.id for step in self.steps for action in step))

    def shown_plan(self) -> Json:
        """The plan as events show it."""
        steps = [{"actions": [action.shown() for action in step]} for step in self.steps]
        return {"id": self.id, "steps": steps, "version": self.version}

    def shown(self) -> Json:
        """The deployment as `/v2/deployments` shows it."""
        step = self.steps[self.current]
        return {
            "id": self.id,
            "version": self.version,
            "affectedApps": self.app_ids,
            "affectedPods": [],
            "steps": self.shown_plan()["steps"],
            "currentActions": [{**action.shown(), "readinessCheckResults": []} for action in step],
            "currentStep": self.current + 1,
            "totalSteps": len(self.steps),
        }

    def progress(self, event_type: str) -> Json:
        """A deployment_info, deployment_step_success or deployment_step_failure of the current step."""
        actions = [action.shown() for action in self.steps[self.current]]
        return events.deployment_progress(event_type, self.shown_plan(), actions)


class Deployments:
    """All running deployments."""

    def __init__(self, world: World, rollout: Rollout) -> None:
        """Carry plans out with `rollout`."""
        self._world = world
        self._rollout = rollout
        self._running: dict[str, Deployment] = {}

    def running(self) -> list[Deployment]:
        """Those that are not finished, oldest first."""
        return list(self._running.values())

    def holding(self, app_id: str) -> list[Deployment]:
        """Those that hold an app."""
        return [deployment for deployment in self._running.values() if app_id in deployment.app_ids]

    def locked(self, app_id: str) -> bool:
        """Whether a deployment holds the app."""
        return bool(self.holding(app_id))

    def make_way(self, changes: Collection[Change], group_id: str, version: str, *, force: bool) -> None:
        """Cancel the deployments that hold these apps if forced.

        Raises:
            Locked: somebody holds one of the apps and the change is not forced.
        """
        holders = {d.id: d for change in changes for d in self.holding(change.app.id)}
        if not holders:
            return
        if not force:
            refusal = Locked(list(holders))
            never_started = Deployment(version, plan(changes))
            self._world.publish(events.group_change_failed(group_id, version, str(refusal)))
            self._world.publish(events.deployment_failed(never_started.shown_plan(), str(refusal)))
            raise refusal
        for deployment in holders.values():
            self.cancel(deployment)

    def cancel(self, deployment: Deployment) -> None:
        """Stop a deployment where it stands."""
        if deployment.task is not None:
            deployment.task.cancel()
        self._fail(deployment, CANCELLED)

    def begin(self, changes: Collection[Change], version: str) -> Deployment:
        """Start the plan for these changes; an empty one succeeds at once."""
        doomed = {change.app.id: change.doomed for change in changes}
        deployment = Deployment(version, plan(changes), doomed)
        if not deployment.steps:
            self._world.publish(events.deployment_success(deployment.shown_plan()))
            return deployment
        self._running[deployment.id] = deployment
        self._world.publish(deployment.progress("deployment_info"))
        deployment.task = self._world.spawn(self._carry_out(deployment), f"deployment {deployment.id}")
        return deployment

    def announce_again(self) -> None:
        """A new leader takes up unfinished deployments under their old ids."""
        for deployment in self._running.values():
            self._world.publish(deployment.progress("deployment_info"))

    async def _carry_out(self, deployment: Deployment) -> None:
        for index, step in enumerate(deployment.steps):
            deployment.current = index
            if index:
                self._world.publish(deployment.progress("deployment_info"))
            try:
                async with asyncio.TaskGroup() as group:
                    for action in step:
                        group.create_task(self._act(action, deployment))
            except* Exception as errors:  # a defect must not leave its apps locked for ever
                log.exception("deployment %s failed", deployment.id)
                self._fail(deployment, str(errors.exceptions[0]))
            if deployment.id not in self._running:
                return
            self._world.publish(deployment.progress("deployment_step_success"))
        del self._running[deployment.id]
        self._world.publish(events.deployment_success(deployment.shown_plan()))
        self._world.changes.notify()

    def _fail(self, deployment: Deployment, reason: str) -> None:
        del self._running[deployment.id]
        self._world.publish(deployment.progress("deployment_step_failure"))
        self._world.publish(events.deployment_failed(deployment.shown_plan(), reason))
        self._world.changes.notify()

    async def _act(self, action: Action, deployment: Deployment) -> None:
        match action.kind:
            case "Start":
                await self._rollout.start(action.app)
            case "Scale":
                await self._rollout.scale(action.app, deployment.doomed.get(action.app.id, frozenset()))
            case "Restart":
                await self._rollout.restart(action.app)
            case "Stop":
                await self._rollout.stop(action.app)
