"""Where a command finds the configuration and the daemon.

A command that only talks to the daemon needs one setting, the path of the socket.  It does not insist on
the rest of the file: somebody who may look at the status need not be able to read where the secrets
are, and a half-edited file must not hide a running daemon from its operator.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mooring.controller.control_client import ControlClient
from mooring.controller.settings import ControlSettings, Settings, load_settings
from mooring.core.errors import ConfigRefused


@dataclass(frozen=True, slots=True)
class Place:
    """What the global options say."""

    config: Path
    socket: Path | None = None

    def settings(self) -> Settings:
        """The whole configuration. Raises `ConfigRefused` with every fault."""
        return load_settings(self.config)

    def client(self, timeout_s: float = 10.0) -> ControlClient:
        """The daemon behind the socket. Raises `ConfigRefused` if the file does not say where it is."""
        return ControlClient(self.socket or self._configured_socket(), timeout_s)

    def _configured_socket(self) -> Path:
        try:
            table = tomllib.loads(self.config.read_text(encoding="utf-8"))
            return ControlSettings.model_validate(table.get("control", {})).socket
        except OSError as error:
            raise ConfigRefused(
                [f"{self.config}: cannot be read: {error.strerror}; give --config FILE or --socket PATH"]
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigRefused(
                [f"{self.config}: is not TOML: {error}; correct it or give --socket PATH"]
            ) from error
        except ValidationError as error:
            faults = [f"{self.config}: control.{fault['loc'][0]}: {fault['msg']}" for fault in error.errors()]
            raise ConfigRefused(faults) from error
