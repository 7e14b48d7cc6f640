"""Where Marathon is and how we prove who we are: shared by the stream reader and the snapshot client.

Credentials go to configured endpoints only.  A standby redirects to whatever name its leader has, and
that name comes from the network: following it is harmless, giving it our password is not.
"""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from mooring.core.errors import Refused


@dataclass(frozen=True, slots=True)
class Access:
    """Base URLs of one Marathon's nodes, and at most one kind of credentials."""

    endpoints: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    token: str | None = None  # DC/OS: sent as "token=<token>"
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise Refused("marathon: no endpoint is configured")
        for endpoint in self.endpoints:
            url = URL(endpoint)
            if url.scheme not in ("http", "https") or not url.host:
                raise Refused(f"marathon: endpoint {endpoint!r} is not an http or https URL")
            if url.user is not None:
                raise Refused(
                    f"marathon: put the credentials in {url.host}'s URL into user and password_file"
                )

    def url(self, endpoint: str, path: str) -> URL:
        """The address of an API path, such as "/v2/info", at one endpoint."""
        return URL(endpoint.rstrip("/") + path)

    def headers(self, url: URL) -> dict[str, str]:
        """The Authorization header for a request to `url`; empty for a host that is not ours."""
        if _place(url) not in {_place(URL(endpoint)) for endpoint in self.endpoints}:
            return {}
        if self.token is not None:
            return {"Authorization": f"token={self.token}"}
        if self.user is not None:
            pair = f"{self.user}:{self.password or ''}".encode()
            return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
        return {}

    def tls(self) -> ssl.SSLContext | bool:
        """How to verify servers. Raises `Refused` if the CA file cannot be used."""
        if self.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"marathon: CA file {self.ca_file}: {error}") from error


def _place(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.host, url.port  # the port is the scheme's own if the URL has none
