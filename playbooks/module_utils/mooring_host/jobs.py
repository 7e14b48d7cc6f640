"""Attaches on their way: what each has found and decided so far, and running a step for all of them.

A job ends when it has a result.  A step that fails ends its own job only; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .containers import Container
from .host import FAILURES, Result, failure
from .links import ContainerLinks, Interface, View
from .namespaces import NetworkNamespace
from .orders import Attach
from .planning import Plan
from .switch import Port


@dataclass
class Job:
    """One attach on its way; `result` is set when it has ended."""

    order: Attach
    container: Container
    namespace: NetworkNamespace
    inside: ContainerLinks
    wanted: Interface | None = None
    view: View | None = None
    plan: Plan | None = None
    idle: bool = False  # nothing differs
    down: bool = False  # its port is there, and the device was left down
    linked: bool = False
    made: Port | None = None  # by pipework
    cleared: list[str] = field(default_factory=list)  # ports that went before it ran
    limited: bool = False  # a limit of its bandwidth was changed
    result: Result | None = None

    @property
    def port(self) -> str:
        """The name of its port."""
        assert self.plan is not None
        return self.plan.create or (self.plan.keep.name if self.plan.keep else "")

    @property
    def interface(self) -> str:
        """What its interface is called; one that was taken over keeps the name it had."""
        return self.order.interface if self.wanted is None else self.wanted.name

    def close(self) -> None:
        """Let go of the namespace."""
        self.inside.close()
        self.namespace.close()


def each(jobs: Iterable[Job], step: Callable[[Job], None]) -> list[Job]:
    """Run a step for each job; returns those that are still going."""
    going: list[Job] = []
    for job in jobs:
        if job.result is not None:
            continue
        try:
            step(job)
        except FAILURES as error:
            job.result = failure(job.order.id, error)
        if job.result is None:
            going.append(job)
    return going


def fail_all(jobs: Iterable[Job], error: Exception) -> None:
    """End all that are still going."""
    for job in jobs:
        if job.result is None:
            job.result = failure(job.order.id, error)


def ended(job: Job) -> Result:
    """The result that the job has by now."""
    assert job.result is not None, "every job ends with a result"
    return job.result
