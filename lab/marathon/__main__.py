"""`python -m mooring.lab.marathon --config FILE`: the lab's Marathon as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from mooring.lab.engine import Engine
from mooring.lab.marathon.marathon import Marathon
from mooring.lab.marathon.server import application
from mooring.lab.marathon.settings import Settings, SettingsError, load

SHUTDOWN_S = 2.0

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def engine_of(settings: Settings) -> AsyncIterator[Engine]:
    """The engine the config names; Docker's client is imported only when it is wanted."""
    if settings.engine.kind == "docker":
        from mooring.lab.docker import DockerEngine

        docker = DockerEngine(Path(settings.engine.socket), settings.engine.lab_name)
        try:
            yield docker
        finally:
            await docker.close()
        return
    from mooring.lab.processes import ProcessEngine

    netns = {agent.hostname: agent.netns for agent in settings.agents if agent.netns}
    yield ProcessEngine(settings.engine.lab_name, netns)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then end the streams and kill what was started."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with engine_of(settings) as engine:
        runner = web.AppRunner(
            application(Marathon(settings, engine)), access_log=None, shutdown_timeout=SHUTDOWN_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.listen_host, settings.listen_port).start()
            log.info("serving on http://%s:%s", *runner.addresses[0][:2])
            await stop.wait()
        finally:
            await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 2 when the config cannot be used."""
    parser = argparse.ArgumentParser(prog="mooring.lab.marathon", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON settings file")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load(options.config)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
