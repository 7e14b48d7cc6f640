"""What the lab's Marathon is started with: one JSON file, read once.

The file names the listener, the agents and the engine; everything about time has a default that
equals the real Marathon's and can be shortened for tests.  A mistake in the file is reported with
its key, because the lab's `up` shows this message and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class SettingsError(Exception):
    """The config file cannot be used; the message names file, key and remedy."""


class Agent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One host that tasks can run on."""

    hostname: str
    address: str
    slave_id: str
    netns: str | None = None  # path of its network namespace, for the process engine's host networking


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which engine makes tasks run."""

    kind: str = "process"  # "docker" or "process"
    socket: str = "/var/run/docker.sock"
    image: str = "mooring-lab/busybox"
    lab_name: str = "lab"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings; times in seconds."""

    agents: tuple[Agent, ...]
    framework_id: str
    listen_host: str = "127.0.0.1"
    listen_port: int = 8088
    engine: EngineSettings = EngineSettings()
    switches_token: str | None = None  # when set, /lab/... needs "Authorization: token=<this>"
    heartbeat_s: float = 10.0
    max_outstanding: int = 1024
    stream_buffer_bytes: int | None = None  # kernel send buffer per stream; small values make readers slow
    backoff_floor_s: float = 0.05  # least wait before a relaunch, so that a crash loop never spins
    backoff_reset_s: float = 60.0  # a task that ran this long clears its app's back-off
    launches_at_once: int = 8
    kills_at_once: int = 32
    task_killing: bool = False  # emit TASK_KILLING, as --enable_features task_killing does
    version: str = "1.8.244"


def load(path: Path) -> Settings:
    """Read the config file.

    Raises:
        SettingsError: the file is missing, is not JSON, or a key has a wrong type or is unknown.
    """
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=Settings)
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); give --config an existing file"
        ) from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path}: {error}; correct that key") from error
    if not settings.agents:
        raise SettingsError(f"{path}: key `agents` is empty; name at least one agent")
    if settings.engine.kind not in ("docker", "process"):
        raise SettingsError(
            f"{path}: key `engine.kind` is {settings.engine.kind!r}; use `docker` or `process`"
        )
    return settings
