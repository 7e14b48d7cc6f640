"""HTTP for machines: is the process alive, may it be relied on, and how is it doing.

*Alive* means that the event loop turns; whoever restarts the process on `/healthz` must not do so because
Marathon or a name server is away.  *Ready* means that what we hold is in force: it lists every reason why
not, one a line, so that a person who meets a 503 needs no second tool.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from mooring.core.errors import Refused
from mooring.core.readmodel import ReadModel
from mooring.portal.pulse import Pulse

LONGEST_SILENCE_S = 10.0  # of the pulse; a loop that stood still for so long is not alive


def make_app(model: ReadModel, registry: CollectorRegistry, pulse: Pulse) -> web.Application:
    """The application with `/healthz`, `/readyz` and `/metrics`."""

    async def healthz(request: web.Request) -> web.Response:
        if pulse.silence_s > LONGEST_SILENCE_S:
            return web.Response(status=503, text=f"the event loop stood still for {pulse.silence_s:.1f} s\n")
        return web.Response(text="alive\n")

    async def readyz(request: web.Request) -> web.Response:
        reasons = model.readiness()
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="ready\n")

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


async def serve(app: web.Application, address: str, port: int) -> web.AppRunner:
    """Listen; `await runner.cleanup()` ends it. Raises `Refused` if the address cannot be had."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port).start()
    except OSError as error:
        await runner.cleanup()
        raise Refused(
            f"portal: cannot listen on {address}:{port}: {error.strerror}; "
            "change portal.address or portal.port"
        ) from error
    return runner
