"""A name server that takes dynamic updates (RFC 2136), signed (RFC 8945), over TCP.

The only module that knows dnspython.  TCP because an update of a hundred names does not fit a datagram and
because dnspython never repeats a lost one; signed questions because BIND chooses the view by the key.  All
questions of a batch go over one connection, each update over its own.  A zone transfer is parsed in a
thread: tens of thousands of records would hold up the loop for seconds.

`import dns` is dnspython here although this file lives in a folder `dns`: ours is `mooring.dns`, and a
namespace folder on `sys.path` never hides an installed regular package.
"""

from __future__ import annotations

import asyncio
import binascii
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.PTR
import dns.rdtypes.ANY.TXT
import dns.tsig
import dns.update
import dns.xfr
import dns.zone

from mooring.core.errors import Refused, Retryable
from mooring.dns.records import Add, NameAbsent, Question, RRset, SetAbsent, SetEquals, Unanswered, Update

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")

_Stream = Any  # dnspython keeps the type of its sockets to itself

_KEY_FAULTS = {
    dns.tsig.PeerBadKey: "it does not know the key",
    dns.tsig.PeerBadSignature: "its secret or algorithm for the key is another one",
    dns.tsig.BadSignature: "its answer is not signed with our secret",
}


class Rfc2136Server:
    """The primary of our zones."""

    def __init__(
        self,
        address: str,
        port: int = 53,
        *,
        key_name: str,
        algorithm: str = "hmac-sha256",
        secret: str,
        timeout_s: float = 5.0,
    ) -> None:
        """`address` is an IP address or host name, `secret` base64; no exchange takes over `timeout_s`."""
        self.where = f"{address}:{port}"
        self._address = address
        self._port = port
        self._key_name = key_name
        self._key = _key(key_name, algorithm, secret)
        self._timeout_s = timeout_s

    async def lookup(self, questions: Sequence[Question]) -> Mapping[Question, RRset]:
        """See `NameServer`."""
        found: dict[Question, RRset] = {}
        async with self._connected() as stream:
            for name, type_ in questions:
                query = dns.message.make_query(_absolute(name), type_)
                query.use_tsig(self._key)
                answer = await self._exchange(query, stream)
                self._check_lookup(name, answer)
                for rrset in answer.answer:
                    if _text(rrset.name) == name:
                        found[name, dns.rdatatype.to_text(rrset.rdtype)] = _rrset(rrset.ttl, rrset)
        return found

    async def update(self, update: Update) -> str:
        """See `NameServer`."""
        message = self._message(update)
        async with self._connected() as stream:
            try:
                answer = await self._exchange(message, stream)
            except dns.exception.TooBig:
                return "FORMERR"  # the same as a server that finds it too big: send less at once
        code = dns.rcode.to_text(answer.rcode())
        if code == "NOTAUTH":
            raise Refused(f"name server {self.where} is not the primary of zone {update.zone} (NOTAUTH)")
        return code

    async def transfer(self, zone: str) -> Mapping[Question, RRset]:
        """See `NameServer`."""
        host = await self._resolved()
        with self._translated(f"zone transfer of {zone}"):
            return await asyncio.to_thread(self._transfer, host, zone)

    def _transfer(self, host: str, zone: str) -> dict[Question, RRset]:
        copy = dns.zone.Zone(_absolute(zone), relativize=False)
        query, _ = dns.xfr.make_query(copy, serial=None, keyring=self._key)
        dns.query.inbound_xfr(host, copy, query, port=self._port, timeout=self._timeout_s)
        return {
            (_text(name), dns.rdatatype.to_text(rdataset.rdtype)): _rrset(rdataset.ttl, rdataset)
            for name, rdataset in copy.iterate_rdatasets()
        }

    def _message(self, update: Update) -> dns.update.UpdateMessage:
        message = dns.update.UpdateMessage(_absolute(update.zone), keyring=self._key)
        for require in dict.fromkeys(update.requires):
            name = _absolute(require.name)
            match require:
                case NameAbsent():
                    message.absent(name)
                case SetAbsent(type=type_):
                    message.absent(name, type_)
                case SetEquals(type=type_, values=values):
                    message.present(name, *(_rdata(type_, value) for value in sorted(values)))
        for edit in update.edits:
            rdata = _rdata(edit.type, edit.value)
            if isinstance(edit, Add):
                message.add(_absolute(edit.name), edit.ttl, rdata)
            else:
                message.delete(_absolute(edit.name), rdata)
        return message

    async def _exchange(self, message: dns.message.Message, stream: _Stream) -> dns.message.Message:
        with self._translated("request"):
            return await dns.asyncquery.tcp(message, self.where, self._timeout_s, sock=stream)

    def _check_lookup(self, name: str, answer: dns.message.Message) -> None:
        code = answer.rcode()
        if code in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return
        problem = f"name server {self.where} does not answer for {name} ({dns.rcode.to_text(code)})"
        raise Refused(problem) if code == dns.rcode.REFUSED else Retryable(problem)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Stream]:
        """A connection; one that does not come about is known to have carried nothing."""
        host = await self._resolved()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            stream = await dns.asyncbackend.get_default_backend().make_socket(  # type: ignore[no-untyped-call]
                family, socket.SOCK_STREAM, destination=(host, self._port), timeout=self._timeout_s
            )
        except (OSError, dns.exception.Timeout) as error:
            raise Retryable(f"name server {self.where} does not accept connections: {error}") from error
        async with stream:
            yield stream

    async def _resolved(self) -> str:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._address, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Retryable(f"name server {self.where}: its own name does not resolve: {error}") from error
        return str(found[0][4][0])

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Every failure of an exchange in our words."""
        try:
            yield
        except tuple(_KEY_FAULTS) as error:
            fault = _KEY_FAULTS[type(error)]
            raise Refused(
                f"name server {self.where} and we disagree about TSIG key {self._key_name!r}: {fault}; "
                "compare its name, algorithm and secret on both sides"
            ) from error
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime) as error:
            raise Retryable(
                f"name server {self.where}: its clock and ours are too far apart for TSIG"
            ) from error
        except dns.xfr.TransferError as error:
            raise Refused(f"name server {self.where}: {what}: {error}; allow it for our key") from error
        except dns.exception.Timeout as error:
            raise Unanswered(
                f"name server {self.where}: no answer to {what} in {self._timeout_s} s"
            ) from error
        except dns.exception.TooBig:
            raise
        except (OSError, EOFError, dns.exception.DNSException) as error:
            text = str(error) or type(error).__name__
            raise Unanswered(f"name server {self.where}: {what}: {text}") from error


def _key(name: str, algorithm: str, secret: str) -> dns.tsig.Key:
    if algorithm not in ALGORITHMS:
        raise Refused(f"TSIG key {name!r}: algorithm {algorithm!r} is none of {', '.join(ALGORITHMS)}")
    try:
        binascii.a2b_base64(secret.strip(), strict_mode=True)
        return dns.tsig.Key(_absolute(name), secret.strip(), algorithm)
    except (binascii.Error, dns.exception.DNSException) as error:
        # The secret itself must never get into a message, and decoding errors may quote it.
        raise Refused(f"TSIG key {name!r}: its name is no DNS name or its secret is not base64") from error


def _absolute(name: str) -> dns.name.Name:
    return dns.name.from_text(name)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _rdata(type_: str, value: str) -> dns.rdata.Rdata:
    if type_ == "TXT":
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return dns.rdata.from_text(dns.rdataclass.IN, type_, value + "." if type_ in {"PTR", "CNAME"} else value)


def _rrset(ttl: int, rdatas: Iterable[dns.rdata.Rdata]) -> RRset:
    return RRset(frozenset(_value(rdata) for rdata in rdatas), ttl)


def _value(rdata: dns.rdata.Rdata) -> str:
    if isinstance(rdata, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(rdata.strings).decode("utf-8", "backslashreplace")
    if isinstance(rdata, dns.rdtypes.ANY.PTR.PTR | dns.rdtypes.ANY.CNAME.CNAME):
        return _text(rdata.target)
    return rdata.to_text()
