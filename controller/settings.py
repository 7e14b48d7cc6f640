"""The configuration file: one TOML document, checked whole before anything starts.

Every setting carries its meaning, unit and default here, and `docs/settings.md` is generated from these
descriptions.  `load_settings` reports all faults at once, each with file, key and remedy, because an
operator who has to restart once per mistake stops trusting the program.  Secrets may be given in
the file or, better, as the path of a file that holds them (`*_file`).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mooring.controller.settings_fabric import FabricSettings
from mooring.controller.settings_host_life import HostLifeSettings
from mooring.controller.settings_reach import REACH, ReachSettings
from mooring.core.errors import ConfigRefused
from mooring.core.specs import Route
from mooring.handlers.plays import HELPER_DIR
from mooring.ipam.pools import Pool, Pools
from mooring.ipam.supernets import Supernet


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


_LOOK_AT_FILES = {"files": True}


def _readable(value: Path, info: ValidationInfo) -> Path:
    """Files are looked at only when a real configuration is loaded."""
    if info.context == _LOOK_AT_FILES and not os.access(value, os.R_OK):
        raise ValueError(f"{value} cannot be read: create it, correct the path or its permissions")
    return value


ReadableFile = Annotated[Path, AfterValidator(_readable)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Seconds = Annotated[float, Field(gt=0)]
TcpPort = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A table of the file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MarathonSettings(Section):
    """Where Marathon is and how it is watched."""

    endpoints: tuple[HttpUrl, ...] = Field(min_length=1, description="Base URLs of all Marathon instances.")
    user: str | None = Field(None, description="User for HTTP Basic authentication.")
    password_file: ReadableFile | None = Field(None, description="File with the password for `user`.")
    token_file: ReadableFile | None = Field(None, description="File with a DC/OS authentication token.")
    ca_file: ReadableFile | None = Field(None, description="CA bundle for https endpoints.")
    silence_s: Seconds = Field(
        25.0, description="A stream silent for so long is dead; Marathon sends a heartbeat each 10 s."
    )
    snapshot_every_s: Seconds = Field(
        120.0, description="Time between full snapshots while the stream is up."
    )
    absence_confirm_s: Seconds = Field(
        60.0, description="An instance missing from two snapshots at least this far apart is gone."
    )
    timeout_s: Seconds = Field(30.0, description="Longest time for one REST reply.")

    @model_validator(mode="after")
    def _one_way_in(self) -> MarathonSettings:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together")
        if self.user is not None and self.token_file is not None:
            raise ValueError("give either user and password_file, or token_file")
        return self


class RouteSettings(Section):
    """A route that every container of the pool gets."""

    to: str = Field(description="Network in CIDR form.")
    via: str = Field(description="Next hop, inside the pool or its pair.")


class PoolSettings(Section):
    """A subnet from which containers get their addresses."""

    network: str = Field(
        description="The subnet, such as 10.64.0.0/22 or fd00:64::/64 (the lowest 2^20 addresses are used)."
    )
    gateway: str | None = Field(
        None,
        description="Default gateway inside the container; `managed`: the first address, on `gateway_host`.",
    )
    gateway_host: str | None = Field(
        None,
        min_length=1,
        description="Host of the inventory that is made the gateway; none: it is yours.",
    )
    gateway_nat: bool = Field(
        False, description="Whether `gateway_host` puts its own address in place of the containers' outside."
    )
    ipv6: str | None = Field(
        None, description="IPv6 network to pair one of IPv4 with, /96 or wider: each container has both."
    )
    gateway6: str | None = Field(None, description="IPv6 gateway: in `ipv6`, or link-local such as fe80::1.")
    vlan: int | None = Field(None, ge=1, le=4094, description="VLAN tag of the switch port; none: untagged.")
    mtu: int | None = Field(None, ge=576, le=9216, description="MTU of the container's interface.")
    routes: tuple[RouteSettings, ...] = Field((), description="More routes inside the container.")
    exclude: tuple[str, ...] = Field(
        (), description="Addresses or ranges (`10.64.0.2-10.64.0.9`) never given out."
    )
    reserve: dict[str, str] = Field(
        default_factory=dict, description="Address = note; kept out of the pool by name."
    )
    owners: tuple[str, ...] = Field(
        (),
        description="App id prefixes that may use the pool; empty: all. See `reach` for what else follows.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> PoolSettings:
        try:
            _pool("this", self)
        except ConfigRefused as error:
            faults = (fault.removeprefix("pool this: ") for fault in error.problems)
            raise ValueError("; ".join(faults)) from error
        return self


class SupernetSettings(Section):
    """A network from which `mooring pool generate` makes pools."""

    network: str = Field(description="The whole network in CIDR form, such as 10.64.0.0/14.")
    prefix: int | None = Field(
        None, description="Prefix length of its pools; without it 24 for IPv4 and 64 for IPv6."
    )
    vlans: str = Field(
        "", description="VLAN tags to use, one for each pool, such as `100-199,300`; empty: untagged."
    )
    gateway: Literal["first", "last", "none"] = Field(
        "first", description="Which address of a pool its gateway has."
    )
    gateway_host: str | None = Field(
        None, min_length=1, description="Host of the inventory that is the gateway of its pools."
    )
    gateway_nat: bool = Field(False, description="As in a pool.")
    mtu: int | None = Field(None, ge=576, le=9216, description="MTU of the pools.")
    owners: tuple[str, ...] = Field(
        (), description="App id prefixes that may use its pools, unless a pool is given others; empty: all."
    )

    def parsed(self, name: str) -> Supernet:
        """As the lease book knows it. Raises `ConfigRefused`."""
        return Supernet.parse(
            name,
            self.network,
            self.prefix,
            vlans=self.vlans,
            gateway=self.gateway,
            mtu=self.mtu,
            groups=self.owners,
            gateway_host=self.gateway_host,
            gateway_nat=self.gateway_nat,
        )

    @model_validator(mode="after")
    def _makes_sense(self) -> SupernetSettings:
        try:
            self.parsed("this")
        except ConfigRefused as error:
            faults = (fault.removeprefix("supernet this: ") for fault in error.problems)
            raise ValueError("; ".join(faults)) from error
        return self


class LeaseSettings(Section):
    """How long addresses rest."""

    cooling_s: Seconds = Field(
        300.0, description="Quarantine of a released address; switches forget it meanwhile."
    )
    idle_ttl_s: Seconds = Field(7 * 86400.0, description="How long an empty slot keeps its address.")
    seat_wait_s: Seconds = Field(
        10.0, description="How long a new instance waits for the seat that a leaving one still holds."
    )
    history_keep_s: Seconds = Field(
        90 * 86400.0, description="How long `mooring history` and `mooring who` remember."
    )


class RedisSettings(Section):
    """A Redis in place of the file `store`: a master with `appendonly yes` and `appendfsync always`."""

    url: str = Field(
        pattern=r"^(rediss?://|unix:///)",
        description="`redis://HOST:PORT/DB`, `rediss://` for TLS, or `unix:///SOCKET`.",
    )
    password_file: ReadableFile | None = Field(None, description="File with the password.")
    ca_file: ReadableFile | None = Field(None, description="CA bundle for `rediss://`.")
    prefix: str = Field(
        "mooring", pattern=r"^[A-Za-z0-9:._-]{1,64}$", description="All keys begin with `PREFIX:{OWNER}:`."
    )
    timeout_s: Seconds = Field(5.0, description="Longest time for one reply.")


class AnsibleSettings(Section):
    """How the hosts are reached."""

    inventory: ReadableFile = Field(
        description="Ansible inventory; host names equal the agents' host names in Marathon."
    )
    bridge: str = Field(
        "br-mooring", pattern=r"^[A-Za-z0-9._-]{1,15}$", description="Open vSwitch bridge on the hosts."
    )
    interface: str = Field(
        "eth0", pattern=r"^[a-z0-9._-]{1,15}$", description="Interface name inside containers."
    )
    wiring: Literal["native", "pipework"] = Field(
        "native", description="What makes the ports; a host may have its own `mooring_wiring` (see adopt.md)."
    )
    clean_pipework: bool = Field(False, description="Remove dead ports of pipework that carry no mark.")
    connect_timeout_s: int = Field(5, ge=1, description="Time for ssh to connect.")
    play_timeout_s: Seconds = Field(60.0, description="Longest time for one play.")
    parallel: int = Field(
        16,
        ge=1,
        le=64,
        description="Plays at a time, at most two for a host; a quarter more for failing hosts.",
    )
    mode: Literal["warm", "runner"] = Field(
        "warm", description="`warm` keeps plays ready; `runner` starts an `ansible-playbook` for each."
    )
    linger_s: Seconds = Field(20.0, description="How long a play stays ready after its last use.")
    helper_dir: str = Field(
        HELPER_DIR, pattern=r"^/[A-Za-z0-9._/-]{1,200}$", description="Where the hosts' program is installed."
    )
    install_helper: bool = Field(
        True, description="Install the program on hosts that lack it, or have another version."
    )


class DnsSettings(Section):
    """The dynamic zones (RFC 2136)."""

    server: str = Field(description="Address of the primary name server.")
    port: TcpPort = Field(53, description="Its port.")
    zone: str = Field(description="Forward zone for all names.")
    reverse_zones: tuple[str, ...] = Field((), description="Reverse zones that take PTR records.")
    key_name: str = Field(description="Name of the TSIG key.")
    key_algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = Field(
        "hmac-sha256", description="Its algorithm."
    )
    secret_file: ReadableFile = Field(description="File with the key's base64 secret.")
    ttl: int = Field(10, ge=1, le=86400, description="TTL of new records, seconds.")
    timeout_s: Seconds = Field(5.0, description="Longest time for one update.")


class HaproxySettings(Section):
    """An HAProxy on this machine, in master-worker mode."""

    config: Path = Field(description="The file that Mooring renders.")
    socket: Path = Field(description="Runtime API socket, admin level.")
    master_socket: Path = Field(description="Master CLI socket (`haproxy -S`).")
    http_bind: str = Field("*:80", description="Where the HTTP frontend listens.")
    bind_address: str = Field("*", description="Address for service ports.")
    binary: str = Field("haproxy", description="Program that checks a candidate file.")
    adopt: bool = Field(False, description="Replace a file that does not carry our mark.")


class NginxSettings(Section):
    """An Nginx on this machine."""

    root: Path = Field(description="Directory with one generation each and the link `current`.")
    pid_file: Path = Field(description="Pid file of the Nginx master.")
    status_socket: Path = Field(description="Unix socket on which the running generation is proven.")
    http_bind: str = Field("*:8080", description="Where the HTTP servers listen.")
    binary: str = Field("nginx", description="Program that checks a candidate.")
    adopt: bool = Field(False, description="Replace a configuration that does not carry our mark.")


class WebhookSettings(Section):
    """A CMDB that takes signed HTTP requests."""

    url: HttpUrl = Field(description="Base URL; items are put to <url>/items/<key>.")
    secret_file: ReadableFile = Field(description="File with the secret of the HMAC-SHA256 signature.")
    timeout_s: Seconds = Field(10.0, description="Longest time for one request.")


class PortalSettings(Section):
    """HTTP for machines: health, readiness, metrics."""

    address: str = Field("127.0.0.1", description="Listening address.")
    port: TcpPort = Field(8053, description="Listening port.")


class ControlSettings(Section):
    """The local socket behind every command."""

    socket: Path = Field(Path("/run/mooring/control.sock"), description="Unix socket.")
    group: str | None = Field(
        None, description="Besides root and the daemon's user, members of this group may command."
    )


class LogSettings(Section):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level shown."
    )
    format: Literal["json", "console"] = Field("json", description="One JSON object a line, or for people.")


class Settings(Section):
    """The whole file."""

    owner: str = Field(
        "mooring",
        pattern=r"^[a-z0-9-]{1,32}$",
        description="Our mark on switch ports, DNS names and proxy files; one for each Marathon.",
    )
    store: Path | None = Field(
        None, description="SQLite file with leases and bindings; either this or `[redis]`."
    )
    redis: RedisSettings | None = Field(
        None, validate_default=True, description="Without it, leases and bindings are in the file `store`."
    )
    balancer_groups: tuple[str, ...] = Field(
        ("external",), description="HAPROXY_GROUP values served here; `*`: all."
    )
    hosts: dict[str, str] = Field(
        default_factory=dict, description="Agent host name = address, for names that do not resolve here."
    )
    workers: int = Field(64, ge=1, le=1024, description="Instances worked on at a time.")
    verify_every_s: float = Field(
        300.0, gt=0, description="What really stands at every sink is compared with the records so often."
    )
    host_life: HostLifeSettings = HostLifeSettings()  # type: ignore[call-arg]
    marathon: MarathonSettings
    fabric: FabricSettings = FabricSettings()  # type: ignore[call-arg]
    pools: dict[str, PoolSettings] = Field(
        default_factory=dict, description="Pools by name; more can be made at run time."
    )
    supernets: dict[str, SupernetSettings] = Field(
        default_factory=dict, description="Networks by name, from which pools are generated."
    )
    reach: tuple[ReachSettings, ...] = Field((), description=REACH)
    leases: LeaseSettings = LeaseSettings()  # type: ignore[call-arg]
    ansible: AnsibleSettings
    dns: DnsSettings | None = Field(None, description="Without it, no names.")
    haproxy: HaproxySettings | None = Field(None, description="Without it, no HAProxy.")
    nginx: NginxSettings | None = Field(None, description="Without it, no Nginx.")
    webhook: WebhookSettings | None = Field(None, description="Without it, only the local ledger.")
    portal: PortalSettings = PortalSettings()  # type: ignore[call-arg]
    control: ControlSettings = ControlSettings()  # type: ignore[call-arg]
    log: LogSettings = LogSettings()  # type: ignore[call-arg]

    @field_validator("redis")
    @classmethod
    def _is_the_only_store(cls, redis: RedisSettings | None, info: ValidationInfo) -> RedisSettings | None:
        if "store" in info.data and (info.data["store"] is None) == (redis is None):
            raise ValueError("set either `store`, the path of a SQLite file, or `[redis]`, and not both")
        return redis

    @field_validator("pools", "supernets")
    @classmethod
    def _fit_the_fabric(cls, tables: Any, info: ValidationInfo) -> Any:
        fabric = info.data.get("fabric", FabricSettings())  # type: ignore[call-arg]
        if faults := [fault for name, table in tables.items() if (fault := fabric.refusal(name, table.mtu))]:
            raise ValueError("; ".join(faults))
        return tables

    @field_validator("pools")
    @classmethod
    def _do_not_overlap(cls, pools: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
        try:
            Pools(_pool(name, table) for name, table in pools.items())
        except ConfigRefused as error:
            raise ValueError("; ".join(error.problems)) from error
        return pools


def _problem_of(fault: Any) -> str:
    """What is wrong, and what to do about it."""
    remedies = {"missing": "set it", "extra_forbidden": "remove it or correct its spelling"}
    if fault["type"] == "value_error":  # our own words say what to do
        return str(fault["ctx"]["error"])
    given = f"got {fault.get('input')!r:.80}"
    return f"{fault['msg']}; {remedies.get(fault['type']) or given}"


def load_settings(path: Path) -> Settings:
    """Read and check the file. Raises `ConfigRefused` with every problem: file, key, remedy."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigRefused([f"{path}: cannot be read: {error.strerror}; give --config FILE"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigRefused([f"{path}: is not TOML: {error}"]) from error
    try:
        return Settings.model_validate(table, context=_LOOK_AT_FILES)
    except ValidationError as error:
        raise ConfigRefused([_problem(path, fault) for fault in error.errors()]) from error


def _problem(path: Path, fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    return f"{path}: {key or 'file'}: {_problem_of(fault)}"


def pools_of(settings: Settings) -> Pools:
    """The pools as the address book knows them."""
    return Pools(_pool(name, table) for name, table in settings.pools.items())


def _pool(name: str, table: PoolSettings) -> Pool:
    return Pool.parse(
        name,
        table.network,
        gateway=table.gateway,
        vlan=table.vlan,
        mtu=table.mtu,
        routes=[Route(route.to, route.via) for route in table.routes],
        exclude=table.exclude,
        reservations=table.reserve,
        groups=table.owners,
        ipv6=table.ipv6,
        gateway6=table.gateway6,
        gateway_host=table.gateway_host,
        gateway_nat=table.gateway_nat,
    )
