"""What an app owner asked for: labels in, a validated `Claim` out.

Labels are hostile until they have passed here.  Whatever leaves as a `Claim` can go into a DNS message,
a proxy configuration, a path or an argument vector, because each value matched a narrow form first.
One unacceptable label refuses the whole claim (`LabelRefused` names app, label and reason in one line): half
a claim would surprise its owner more than none.  The app then keeps its last good state.

All numbers of ports are counted as in Marathon's list of them: `Claim.ports[n]`, the service with index n and
`HAPROXY_n_*` mean the same port.  One that is not known ahead (Marathon chooses it) keeps its place as 0.

`MOORING_*` labels are ours, and an unknown one is refused: it is a typing error or a hope.
`HAPROXY_*` labels mean what they mean to marathon-lb; the ones we do not use are left alone.
"""

from __future__ import annotations

import ipaddress
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from mooring.core.bandwidth import parse_bandwidth
from mooring.core.errors import LabelRefused
from mooring.core.model import App, AppId, PoolName
from mooring.core.specs import ServiceSpec
from mooring.core.template import Member, TemplateRefused, one_line, render_template

LONGEST_VALUE = 8192  # characters; Marathon itself sets no limit
LONGEST_COMMAND = 32  # arguments
_LONGEST_REFUSAL = 399  # characters, with app and label
_LONGEST_LABEL = 60  # characters of a label's own name in a refusal

_HOSTNAME = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\Z")
_APP_ID = re.compile(r"/(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?:/[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)*\Z")
_PATH = re.compile(r"/[A-Za-z0-9._+@-]+(?:/[A-Za-z0-9._+@-]+)*\Z")
_FORBIDDEN_ROOTS = ("/proc", "/sys", "/dev")
_NOTIFY = re.compile(r"MOORING_NOTIFY_(?:([A-Z0-9]+)_)?(FROM|PATH|TEMPLATE|COMMAND|SIGNAL|MODE)\Z")
_SIGNALS = frozenset({"HUP", "USR1", "USR2", "INT", "TERM", "WINCH"})
_BALANCE = frozenset({"roundrobin", "leastconn", "first", "random"})
_KNOWN = frozenset({
    "MOORING_POOL", "MOORING_PORTS", "MOORING_IP_POLICY", "MOORING_IPS",
    "MOORING_DNS_NAME", "MOORING_DNS_TTL", "MOORING_BANDWIDTH",
})  # fmt: skip
_DEFAULT_TEMPLATE = "{% for m in members %}{{ m.app }} {{ m.address }}:{{ m.port }}\n{% endfor %}"


class IpPolicy(StrEnum):
    """How long an app keeps an address."""

    SLOT = "slot"  # the seat keeps it over kill and restart
    TASK = "task"  # given back at each kill
    PINNED = "pinned"  # only addresses from an explicit list


class PoolRule(Protocol):
    """What must be known of a pool to judge a wish for it."""

    @property
    def groups(self) -> Sequence[str]:
        """App id prefixes that may use it; empty: all."""

    def allows(self, app: AppId) -> bool:
        """Whether the app may use it."""

    def refusal(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
        """Why the address is never given out, as the end of a sentence; None if it may be."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration allows app owners to ask for."""

    pools: Mapping[str, PoolRule] = field(default_factory=dict)
    balancer_groups: frozenset[str] = frozenset({"*"})
    zone: str = "mooring.test"
    ttl: int = 10


@dataclass(frozen=True, slots=True)
class NoticeClaim:
    """A file to keep in step with other apps' members."""

    name: str
    sources: tuple[AppId, ...]
    path: str
    template: str = _DEFAULT_TEMPLATE
    command: tuple[str, ...] = ()
    signal: str | None = None
    mode: str = "0644"


@dataclass(frozen=True, slots=True)
class Claim:
    """A validated wish."""

    app: AppId
    pool: PoolName | None = None
    ports: tuple[int, ...] = ()  # in the app's order, 0 for one that is not known ahead
    tcp_ports: tuple[int, ...] = ()  # the known ones that accept connections, each once
    policy: IpPolicy = IpPolicy.SLOT
    pinned: tuple[str, ...] = ()
    rate_out: int | None = None  # bit/s from each instance; None: not limited
    rate_in: int | None = None  # bit/s to it
    services: tuple[ServiceSpec, ...] = ()
    notices: tuple[NoticeClaim, ...] = ()
    dns_name: str | None = None  # relative to the zone; None: derived from the app id
    ttl: int = 10


def parse_claim(app: App, rules: Rules) -> Claim:
    """What this app asks for. Raises `LabelRefused`."""
    return _Reader(app, rules).claim()


@dataclass(frozen=True, slots=True)
class _Reader:
    app: App
    rules: Rules

    def claim(self) -> Claim:
        self._check_known()
        policy = self._policy()
        ports = self._ports()
        rate_out, rate_in = self._rates()
        return Claim(
            app=self.app.id,
            pool=self._pool(),
            ports=ports,
            tcp_ports=self._tcp_ports(ports),
            policy=policy,
            pinned=self._pinned(policy),
            rate_out=rate_out,
            rate_in=rate_in,
            services=self._services(max(len(ports), len(self.app.ports))),
            notices=self._notices(),
            dns_name=self._dns_name(),
            ttl=self._number("MOORING_DNS_TTL", self.rules.ttl, 1, 86400),
        )

    def refuse(self, label: str, reason: str) -> LabelRefused:
        """The refusal, in one line whatever the label's name and value are."""
        short = one_line(label, _LONGEST_LABEL)
        around = len(str(LabelRefused(self.app.id, short, "")))
        return LabelRefused(self.app.id, short, one_line(reason, max(_LONGEST_REFUSAL - around, 60)))

    def _check_known(self) -> None:
        for label, value in self.app.labels.items():
            if not label.startswith(("MOORING_", "HAPROXY_")):
                continue
            if len(value) > LONGEST_VALUE:
                raise self.refuse(
                    label, f"is {len(value)} characters long; at most {LONGEST_VALUE} are accepted"
                )
            if label.startswith("MOORING_") and label not in _KNOWN and not _NOTIFY.match(label):
                known = ", ".join(sorted(_KNOWN))
                raise self.refuse(label, f"unknown label; known are {known} and MOORING_NOTIFY_*")

    def _pool(self) -> PoolName | None:
        name = self.app.labels.get("MOORING_POOL")
        if name is None:
            return None
        rule = self.rules.pools.get(name)
        if rule is None:
            known = ", ".join(sorted(self.rules.pools)) or "none"
            raise self.refuse("MOORING_POOL", f"no pool {_shown(name)}; configured pools: {known}")
        if not rule.allows(self.app.id):
            raise self.refuse("MOORING_POOL", f"pool {name} is kept for {', '.join(rule.groups)}")
        if not self.app.own_network:
            raise self.refuse(
                "MOORING_POOL",
                'the app shares its host\'s network; set networks to [{"mode": "container", "name": "none"}]',
            )
        return PoolName(name)

    def _ports(self) -> tuple[int, ...]:
        mapped = tuple(port.container or 0 for port in self.app.ports)
        text = self.app.labels.get("MOORING_PORTS")
        listed = () if text is None else tuple(self._port("MOORING_PORTS", part) for part in text.split(","))
        return mapped if any(mapped) else listed

    def _tcp_ports(self, ports: tuple[int, ...]) -> tuple[int, ...]:
        """Those that answer a connection. A port that only the label knows is one of TCP."""
        protocols = [port.protocol for port in self.app.ports] + ["tcp"] * len(ports)
        known = [port for port, protocol in zip(ports, protocols, strict=False) if port and "tcp" in protocol]
        return tuple(dict.fromkeys(known))

    def _policy(self) -> IpPolicy:
        text = self.app.labels.get("MOORING_IP_POLICY", "slot")
        try:
            return IpPolicy(text)
        except ValueError:
            allowed = ", ".join(policy.value for policy in IpPolicy)
            raise self.refuse("MOORING_IP_POLICY", f"{_shown(text)} is not one of {allowed}") from None

    def _pinned(self, policy: IpPolicy) -> tuple[str, ...]:
        text = self.app.labels.get("MOORING_IPS")
        if policy is not IpPolicy.PINNED:
            if text is not None:
                raise self.refuse("MOORING_IPS", "needs MOORING_IP_POLICY=pinned")
            return ()
        addresses = tuple(dict.fromkeys(self._address(part.strip()) for part in (text or "").split(",")))
        needed = math.floor(self.app.instances * (1 + self.app.over_capacity))
        if len(addresses) < needed:
            raise self.refuse(
                "MOORING_IPS",
                f"{len(addresses)} addresses for up to {needed} instances during an upgrade; "
                "list more or lower upgradeStrategy.maximumOverCapacity",
            )
        return addresses

    def _address(self, text: str) -> str:
        pool = self._pool()
        if pool is None:
            raise self.refuse("MOORING_IPS", "needs MOORING_POOL")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise self.refuse("MOORING_IPS", f"{_shown(text)} is not an IP address") from None
        if reason := self.rules.pools[pool].refusal(address):
            raise self.refuse("MOORING_IPS", f"{address} {reason} (pool {pool})")
        return str(address)

    def _rates(self) -> tuple[int, int] | tuple[None, None]:
        text = self.app.labels.get("MOORING_BANDWIDTH")
        if text is None:
            return None, None
        if "MOORING_POOL" not in self.app.labels:
            raise self.refuse("MOORING_BANDWIDTH", "needs MOORING_POOL: only a port of ours can be limited")
        try:
            return parse_bandwidth(text)
        except ValueError as error:
            raise self.refuse("MOORING_BANDWIDTH", f"{_shown(text)} {error}") from None

    def _dns_name(self) -> str | None:
        name = self.app.labels.get("MOORING_DNS_NAME")
        if name is not None and not _HOSTNAME.match(name):
            raise self.refuse("MOORING_DNS_NAME", f"{_shown(name)} is not a host name (RFC 1123, lower case)")
        return name

    def _services(self, count: int) -> tuple[ServiceSpec, ...]:
        return tuple(self._service(index) for index in range(count) if self._balanced(index))

    def _balanced(self, index: int) -> bool:
        group = self.app.labels.get(f"HAPROXY_{index}_GROUP", self.app.labels.get("HAPROXY_GROUP"))
        enabled = self.app.labels.get(f"HAPROXY_{index}_ENABLED", "true").lower()
        if group is None or enabled in ("false", "0", "no"):
            return False
        wanted = {part.strip() for part in group.split(",")}
        return "*" in self.rules.balancer_groups or bool(wanted & self.rules.balancer_groups)

    def _service(self, index: int) -> ServiceSpec:
        declared = self.app.ports[index].service if index < len(self.app.ports) else None
        vhosts = self._vhosts(f"HAPROXY_{index}_VHOST")
        port = self._number(f"HAPROXY_{index}_PORT", declared or 0, 0, 65535)
        mode = self.app.labels.get(f"HAPROXY_{index}_MODE", "http" if vhosts else "tcp")
        if mode not in ("http", "tcp"):
            raise self.refuse(f"HAPROXY_{index}_MODE", f"{_shown(mode)} is not http or tcp")
        balance = self.app.labels.get(f"HAPROXY_{index}_BALANCE", "roundrobin")
        if balance not in _BALANCE:
            allowed = ", ".join(sorted(_BALANCE))
            raise self.refuse(f"HAPROXY_{index}_BALANCE", f"{_shown(balance)} is not one of {allowed}")
        if not vhosts and not port:
            raise self.refuse(
                f"HAPROXY_{index}_PORT", "a balanced port needs a service port or a HAPROXY_n_VHOST"
            )
        return ServiceSpec(self.app.id, index, mode, port, vhosts, balance)

    def _vhosts(self, label: str) -> tuple[str, ...]:
        text = self.app.labels.get(label)
        if text is None:
            return ()
        names = tuple(part.strip().lower() for part in text.split(","))
        for name in names:
            if not _HOSTNAME.match(name):
                raise self.refuse(label, f"{_shown(name)} is not a host name (RFC 1123)")
        return names

    def _notices(self) -> tuple[NoticeClaim, ...]:
        grouped: dict[str, dict[str, str]] = {}
        for label, value in self.app.labels.items():
            if match := _NOTIFY.match(label):
                grouped.setdefault(match[1] or "", {})[match[2]] = value
        return tuple(self._notice(name, parts) for name, parts in sorted(grouped.items()))

    def _notice(self, name: str, parts: Mapping[str, str]) -> NoticeClaim:
        prefix = f"MOORING_NOTIFY_{name}_" if name else "MOORING_NOTIFY_"
        for needed in ("FROM", "PATH"):
            if needed not in parts:
                raise self.refuse(prefix + needed, "is missing; a notification needs FROM and PATH")
        if "COMMAND" in parts and "SIGNAL" in parts:
            raise self.refuse(prefix + "SIGNAL", "give either a COMMAND or a SIGNAL")
        sources = self._sources(prefix + "FROM", parts["FROM"])
        return NoticeClaim(
            name=name,
            sources=sources,
            path=self._path(prefix + "PATH", parts["PATH"]),
            template=self._template(prefix + "TEMPLATE", parts.get("TEMPLATE", _DEFAULT_TEMPLATE), sources),
            command=self._command(prefix + "COMMAND", parts.get("COMMAND", "")),
            signal=self._signal(prefix + "SIGNAL", parts.get("SIGNAL")),
            mode=self._mode(prefix + "MODE", parts.get("MODE", "0644")),
        )

    def _template(self, label: str, text: str, sources: tuple[AppId, ...]) -> str:
        """Tried out at once, so that its author hears of a mistake before a container does."""
        sample = Member(self.app.id, 0, "192.0.2.1", 80, (80,), "sample", "host")
        try:
            render_template(text, dict.fromkeys(sources, (sample,)), sample)
        except TemplateRefused as error:
            raise self.refuse(label, str(error)) from error
        return text

    def _sources(self, label: str, text: str) -> tuple[AppId, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in names:
            if not _APP_ID.match(name):
                raise self.refuse(label, f"{_shown(name)} is not an absolute app id")
        return tuple(AppId(name) for name in names)

    def _path(self, label: str, path: str) -> str:
        parts = path.split("/")
        if len(path) > 255 or not _PATH.match(path) or ".." in parts or "." in parts:
            raise self.refuse(label, f"{_shown(path)} is not a plain absolute path")
        if any(path == root or path.startswith(root + "/") for root in _FORBIDDEN_ROOTS):
            raise self.refuse(label, f"{_shown(path)} lies in {', '.join(_FORBIDDEN_ROOTS)}")
        return path

    def _command(self, label: str, text: str) -> tuple[str, ...]:
        if not text.isprintable():
            raise self.refuse(label, "has control characters")
        try:
            plain = shlex.shlex(text, posix=True, punctuation_chars=True)
            plain.whitespace_split = True
            words = tuple(plain)
        except ValueError as error:
            raise self.refuse(label, f"cannot be split into arguments: {error}") from error
        operators = [word for word in words if word and set(word) <= set("();<>|&")]
        if operators:
            raise self.refuse(
                label,
                f"no shell runs it, {_shown(operators[0])} would be an argument; put a script in the image",
            )
        if len(words) > LONGEST_COMMAND:
            raise self.refuse(label, f"has {len(words)} arguments; at most {LONGEST_COMMAND} are accepted")
        return words

    def _signal(self, label: str, name: str | None) -> str | None:
        if name is None:
            return None
        short = name.upper().removeprefix("SIG")
        if short not in _SIGNALS:
            raise self.refuse(label, f"{_shown(name)} is not one of {', '.join(sorted(_SIGNALS))}")
        return short

    def _mode(self, label: str, text: str) -> str:
        if not re.fullmatch(r"0[0-7]{3}", text):
            raise self.refuse(label, f"{_shown(text)} is not an octal file mode such as 0644")
        return text

    def _port(self, label: str, text: str) -> int:
        port = _whole(text.strip(), 1, 65535)
        if port is None:
            raise self.refuse(label, f"{_shown(text.strip())} is not a port (1 to 65535)")
        return port

    def _number(self, label: str, default: int, lowest: int, highest: int) -> int:
        text = self.app.labels.get(label)
        if text is None:
            return default
        number = _whole(text, lowest, highest)
        if number is None:
            raise self.refuse(label, f"{_shown(text)} is not a number from {lowest} to {highest}")
        return number


def _whole(text: str, lowest: int, highest: int) -> int | None:
    """The number that the text is; None unless it is plain digits, not too many, and in the range."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(highest)):
        return None
    number = int(text)
    return number if lowest <= number <= highest else None


def _shown(value: str) -> str:
    """A hostile value, quoted and cut for a message. Cut after quoting: one character may become ten."""
    quoted = repr(value[:61])
    return quoted if len(quoted) <= 62 else quoted[:59] + "..."
