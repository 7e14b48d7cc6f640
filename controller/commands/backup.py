"""`mooring backup` and `mooring restore`: the whole store as one file, whatever keeps it.

While a daemon runs, it makes the copy itself and goes on; without one the command opens the store, which
keeps a daemon out meanwhile.  A file appears under its name only when it is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO

import click

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import moment
from mooring.controller.control_client import Unreachable
from mooring.controller.settings import Settings
from mooring.controller.stage import AGREED, COMPLETE, FIRST
from mooring.controller.store.archive import Header, appearing, archive, check, fill
from mooring.controller.stores import put_aside, store_of
from mooring.core.clock import SystemClock
from mooring.core.errors import Refused
from mooring.core.model import Epoch
from mooring.core.store import Contents

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=_FILE)
@click.pass_obj
def backup(place: Place, file: Path) -> None:
    """Write the whole store to FILE: leases, bindings, pools, settings made at run time, history.

    FILE is readable by its owner only, and replaced only once the new one is whole.
    """
    with appearing(file) as into:
        try:
            place.client().save("/backup", into)
        except Unreachable:
            asyncio.run(_save(place.settings(), into))
        into.flush()
        _, trailer = check(Path(into.name))
    click.echo(f"{file}: {trailer.count} entries")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--replace", is_flag=True, help="Put what the store holds now aside first.")
@click.pass_obj
def restore(place: Place, file: Path, replace: bool) -> None:
    """Fill the store from FILE, while no daemon runs.

    A store that holds anything is refused without --replace. The next start compares what FILE knows with
    what hosts and names remember; if they remember more, nothing is given out until `mooring rebuild`.
    """
    header, trailer = check(file)
    asyncio.run(_restore(place.settings(), file, header, replace, click.echo))
    click.echo(f"restored {trailer.count} entries, as they were at {moment(header.made_at)}")
    click.echo(
        "start the daemon; if hosts or names remember newer changes, it will ask for `mooring rebuild`"
    )


async def _save(settings: Settings, into: BinaryIO) -> None:
    async with AsyncExitStack() as stack:
        store = store_of(settings, stack)
        stack.push_async_callback(store.close)
        contents = await store.open()
        if contents.created:
            raise Refused("there was no store to back up; is this the daemon's configuration?")
        async for lines in archive(store, contents.epoch, SystemClock().now(), at_rest=True):
            into.write(lines)


async def _restore(
    settings: Settings, file: Path, header: Header, replace: bool, say: Callable[[str], None]
) -> None:
    async with AsyncExitStack() as stack:
        epoch = Epoch(max(header.epoch, 1))
        if replace:
            aside = await put_aside(settings, file, SystemClock().now())
            epoch = Epoch(max(epoch, aside.epoch + 1))
            if aside.where:
                say(f"what the store held is kept in {aside.where}")
        store = store_of(settings, stack)
        stack.push_async_callback(store.close)
        contents = await store.open()
        if not _is_empty(contents):
            raise Refused(
                f"the store holds {len(contents.leases)} leases and {len(contents.bindings)} bindings: "
                "nothing was changed; give --replace to put them aside"
            )
        await store.begin(Epoch(max(epoch, contents.epoch + 1)))
        # A copy of a store in use may lack what was stored later under the same epoch.
        await fill(store, file, () if header.at_rest else (COMPLETE, AGREED, FIRST))


def _is_empty(contents: Contents) -> bool:
    return contents.fresh and not contents.pools and not contents.flags
