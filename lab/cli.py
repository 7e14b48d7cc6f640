"""`mooring lab`: bring a lab up, look at it, run commands inside it, take it down.

    mooring lab up
    mooring lab exec edge -- curl -s http://10.64.0.2:8080
    mooring lab down

Each command prints one line for a person and ends with a status for a script: 0 done, 1 not possible
(one line on standard error says why and what to do), 3 for `status` when a part does not serve.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mooring.lab import background, lifecycle
from mooring.lab.demo import Demo
from mooring.lab.handle import entering
from mooring.lab.plan import DEFAULT_NAME, DEFAULT_PARENT, DEFAULT_PORT_BASE, ZONE, LabError, LabPlan
from mooring.lab.sample import WEB, vhost
from mooring.lab.supervise import environment

_NOT_SERVING = 3


class _Refusal(click.ClickException):
    """One line on standard error and exit status 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"mooring lab: {self.message}", err=True, file=file)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which lab is meant."""
    options = [
        click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which lab."),
        click.option(
            "--state-dir",
            type=click.Path(path_type=Path),
            envvar="MOORING_LAB_STATE",
            help=f"Everything the lab writes. [default: {DEFAULT_PARENT}/<name>]",
        ),
        click.option(
            "--port-base",
            type=int,
            help=f"First of 100 ports on 127.0.0.1. [default: the lab's own, else {DEFAULT_PORT_BASE}]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _plan(name: str, state_dir: Path | None, port_base: int | None) -> LabPlan:
    """The plan that the options mean; what they leave open is taken from the lab that stands there."""
    directory = (state_dir or DEFAULT_PARENT / name).absolute()
    kept = LabPlan.recall(directory)
    if kept is not None and kept.name == name and port_base is None:
        return kept
    return LabPlan(name, directory, DEFAULT_PORT_BASE if port_base is None else port_base)


@click.group()
def lab() -> None:
    """A Marathon, three hosts, real edges: a data centre to try Mooring on."""


@lab.command()
@_options
def up(name: str, state_dir: Path | None, port_base: int | None) -> None:
    """Bring the lab up and wait until all of it serves."""
    began = time.monotonic()
    try:
        plan = _plan(name, state_dir, port_base)
        fresh = asyncio.run(lifecycle.up(plan))
    except LabError as error:
        raise _Refusal(str(error)) from error
    took = f"up in {time.monotonic() - began:.1f} s" if fresh else "already up"
    click.echo(
        f"lab {plan.name}: {took}; Marathon at {plan.marathon_url}, daemon config {plan.daemon_config}"
    )


@lab.command()
@_options
def down(name: str, state_dir: Path | None, port_base: int | None) -> None:
    """Take the lab down and leave nothing behind."""
    try:
        plan = _plan(name, state_dir, port_base)
        found = lifecycle.down(plan)
    except LabError as error:
        raise _Refusal(str(error)) from error
    click.echo(f"lab {plan.name}: {'down' if found else 'was not up'}")


@lab.command()
@_options
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of a table.")
def status(name: str, state_dir: Path | None, port_base: int | None, *, as_json: bool) -> None:
    """Ask every part of the lab whether it serves."""
    try:
        plan = _plan(name, state_dir, port_base)
        parts = asyncio.run(lifecycle.status(plan))
    except LabError as error:
        raise _Refusal(str(error)) from error
    if as_json:
        click.echo(json.dumps([asdict(part) for part in parts], indent=1))
    else:
        Console().print(_table(plan, parts))
    if not all(part.serves for part in parts):
        raise SystemExit(_NOT_SERVING)


@lab.command()
@_options
def sample(name: str, state_dir: Path | None, port_base: int | None) -> None:
    """Start the daemon, deploy the sample service and show what happened to it."""
    plan, story = _story(name, state_dir, port_base)
    _perform(plan, story.deploy)
    click.echo(
        f"\nLook around:  mooring --config {plan.daemon_config} status\n"
        f"              curl -H 'Host: {vhost(WEB)}' http://127.0.0.1:{plan.haproxy_door}/\n"
        f"              dig @127.0.0.1 -p {plan.dns_port} web.shop.{ZONE}\n"
        f"Dashboards:   http://127.0.0.1:{plan.prometheus_port}\n"
        "Clean up:     make down"
    )


@lab.command()
@_options
def demo(name: str, state_dir: Path | None, port_base: int | None) -> None:
    """Bring the lab up, tell the whole story with its proofs, take the lab down.

    Ends with 0 only if all of it worked.
    """
    plan, story = _story(name, state_dir, port_base)
    try:
        asyncio.run(lifecycle.up(plan))
        _perform(plan, story.deploy, story.everything)
    except LabError as error:
        raise _Refusal(str(error)) from error
    finally:
        lifecycle.down(plan)
    click.echo(f"lab {plan.name}: down; nothing is left behind")


def _story(name: str, state_dir: Path | None, port_base: int | None) -> tuple[LabPlan, Demo]:
    try:
        plan = _plan(name, state_dir, port_base)
    except LabError as error:
        raise _Refusal(str(error)) from error
    return plan, Demo(plan, Console(width=max(Console().width, 180)))


def _perform(plan: LabPlan, *chapters: Callable[[], Awaitable[object]]) -> None:
    async def perform() -> None:
        await background.start(plan)
        for chapter in chapters:
            await chapter()

    try:
        asyncio.run(perform())
    except LabError as error:
        raise _Refusal(str(error)) from error


def _table(plan: LabPlan, parts: list[lifecycle.PartStatus]) -> Table:
    table = Table(title=f"lab {plan.name} in {plan.state_dir}", title_justify="left")
    for heading in ("part", "pid", "serves", "where", "problem"):
        table.add_column(heading, overflow="fold")
    for part in parts:
        serves = "[green]yes[/]" if part.serves else "[red]no[/]"
        problem = f"{part.problem}; see {part.log}" if part.problem else ""
        table.add_row(part.part, str(part.pid or "-"), serves, part.where, problem)
    return table


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@_options
@click.argument("place")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    name: str, state_dir: Path | None, port_base: int | None, place: str, command: tuple[str, ...]
) -> None:
    """Run COMMAND in PLACE: `edge`, or an agent such as `agent-1`."""
    try:
        plan = _plan(name, state_dir, port_base)
        argv = [*entering(plan, place), *command]
    except LabError as error:
        raise _Refusal(str(error)) from error
    env = environment(plan)
    os.execvpe(argv[0], argv, env)  # noqa: S606  # replaces us: signals and exit status are the command's own


if __name__ == "__main__":
    lab()
