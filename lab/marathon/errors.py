"""The API's refusals, each with the status and JSON body the real Marathon answers with."""

from __future__ import annotations

from mooring.lab.marathon.model import Json


class ApiError(Exception):
    """A request that is answered with `status` and `body`."""

    def __init__(self, status: int, body: Json) -> None:
        """Answer with this status and this JSON body."""
        super().__init__(body.get("message", ""))
        self.status = status
        self.body = body


class Invalid(ApiError):
    """422: the object is not valid; `details` lists every path with its errors."""

    def __init__(self, details: list[Json]) -> None:
        """Report all the details at once."""
        super().__init__(422, {"message": "Object is not valid", "details": details})


class Unknown(ApiError):
    """404: what the path names does not exist."""

    def __init__(self, kind: str, name: str) -> None:
        """Say which kind of thing has no such name, as in `App '/x' does not exist`."""
        super().__init__(404, {"message": f"{kind} '{name}' does not exist"})


class Malformed(ApiError):
    """400: the request itself cannot be understood."""

    def __init__(self, message: str) -> None:
        """Say what is wrong with the request."""
        super().__init__(400, {"message": message})


class Locked(ApiError):
    """409: a running deployment holds the app."""

    def __init__(self, deployments: list[str]) -> None:
        """Name the deployments that hold it."""
        message = (
            "App is locked by one or more deployments. Override with the option '?force=true'. "
            "View details at '/v2/deployments/<DEPLOYMENT_ID>'."
        )
        super().__init__(409, {"message": message, "deployments": [{"id": name} for name in deployments]})
