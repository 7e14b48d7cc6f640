"""The command `mooring`.

Every command that looks at or steers a daemon goes through its control socket; only `run` and `check`
read the whole configuration.  Errors leave as lines on standard error and as an exit code that a script
can tell apart (`EXIT_CODES`).  Other packages add commands by an entry point of the group
"mooring.commands"; they are imported when they are used, so that a lab that is not installed is missed by
nobody else.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import click

from mooring.controller.commands.adopt import adopt
from mooring.controller.commands.backup import backup, restore
from mooring.controller.commands.brake import brake
from mooring.controller.commands.hosts import hosts
from mooring.controller.commands.lookups import history, leases, who
from mooring.controller.commands.pausing import pause, resume
from mooring.controller.commands.place import Place
from mooring.controller.commands.pools import lease, pool, pools
from mooring.controller.commands.rebuild import rebuild
from mooring.controller.commands.running import check, run
from mooring.controller.commands.status import status
from mooring.controller.commands.verify import plan, verify
from mooring.controller.control_client import NotPermitted, Unreachable
from mooring.controller.printable import printable
from mooring.controller.version import version as installed_version
from mooring.core.errors import ConfigRefused, MooringError

EXTENSIONS = "mooring.commands"
EXIT_CODES = """\b
Exit codes:
  0  done; status: everything is in step; check: every part answers
  1  not in step or not ready, something differs (verify), a part does not answer, or the request was refused
  2  wrong usage or configuration
  3  the daemon is not running or cannot be reached
  4  not permitted
"""


class Commands(click.Group):
    """Our commands and those of extensions, with one place where errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = metadata.entry_points(group=EXTENSIONS)
        return sorted({*super().list_commands(ctx), *(entry.name for entry in found)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in metadata.entry_points(group=EXTENSIONS, name=cmd_name):
            return _loaded(entry)
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MooringError as error:
            for line in str(error).splitlines():
                click.echo(printable(line), err=True)
            ctx.exit(_exit_code(error))


def _loaded(entry: metadata.EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except ImportError as error:
        return _Missing(entry.name, str(error))
    assert isinstance(command, click.Command)
    return command


class _Missing(click.Command):
    """Stands for an extension that cannot be imported here."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, short_help=f"(not available: {reason})", add_help_option=False)
        self._reason = reason

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        raise click.UsageError(f"{self.name} is not available: {self._reason}; install mooring[{self.name}]")


def _exit_code(error: MooringError) -> int:
    match error:
        case ConfigRefused():
            return 2
        case Unreachable():
            return 3
        case NotPermitted():
            return 4
    return 1


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", type=click.Path(path_type=Path), default=Path("/etc/mooring/mooring.toml"),
    envvar="MOORING_CONFIG", show_default=True, show_envvar=True, metavar="FILE", help="Configuration.",
)  # fmt: skip
@click.option(
    "--socket", type=click.Path(path_type=Path), envvar="MOORING_SOCKET", show_envvar=True, metavar="PATH",
    help="Control socket of the daemon, in place of the configured one.",
)  # fmt: skip
@click.pass_context
def main(ctx: click.Context, config: Path, socket: Path | None) -> None:
    """Hold every Marathon container at a fixed address, and everything else in step with it."""
    ctx.obj = Place(config, socket)


@main.command()
def version() -> None:
    """Print the version of this program."""
    click.echo(f"mooring {installed_version()}")


for command in (
    run, check, status, verify, plan, rebuild, adopt, hosts, leases, lease, pools, pool, who, history,
    backup, restore, pause, resume, brake,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
