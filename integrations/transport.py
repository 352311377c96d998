"""The HTTP client for addresses of others: aiohttp, with time-outs and limits, and errors that say what went wrong.

And the guard of addresses that a person typed: what a name leads to is checked when the connection is made, as names can change
their mind.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte
MAX_CONNECTIONS = 1000  # as many as a worker may have chunks: a slow provider must not take the way from the others
LONGEST_HEADER = 64 * 1024  # bytes; lists of links can be long
USER_AGENT = "Atom/1 (history import)"
_PLAIN = re.compile(r"[\x21-\x7e]+")
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}


class Answer(NamedTuple):
    """headers: by names in any case. body: decoded; empty when it was not asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ConnectTimeout(Exception):
    """No connection within CONNECT_TIMEOUT."""


class ReadTimeout(Exception):
    """No byte within the time that one has patience for."""


class CannotConnect(Exception):
    """Nobody answers at the address, or not with the right certificate."""


class BrokenOff(Exception):
    """The connection ended before the answer did, or what came is no HTTP."""


class InvalidAddress(Exception):
    """It is no address that HTTP can be spoken to."""


class TooLarge(Exception):
    """The body is longer than the caller takes."""


class PrivateAddress(Exception):
    """The address leads to a private network."""


# IPv4 behind a translator (RFC 6052): what counts is the address in its last 32 bits.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All of IPv6 that is given out (RFC 4291, IANA). Outside of it lie old private networks (fec0::/10) and IPv4 in disguise (::/96), which
# Python takes for public.
_GIVEN_OUT = ipaddress.ip_network("2000::/3")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    elif ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast and (ip.version == 4 or ip in _GIVEN_OUT)


class _PublicOnly(AbstractResolver):
    """Resolves names and refuses those that lead to private addresses. The connection goes to an address that was checked."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        addresses = [(str(entry[4][0]), entry[0]) for entry in found]
        if not all(is_public(address) for address, _ in addresses):
            raise PrivateAddress(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for address, family in addresses
        ]

    async def close(self) -> None:
        pass


class Sender(Protocol):
    """What `Client` is to those who send: tests have others."""

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        most: int | None = None,
        patience: float | None = None,
    ) -> Answer: ...


class Client:
    """One event loop's connections, kept open. public_only: none to private addresses, nor through a proxy, which would."""

    def __init__(self, *, public_only: bool) -> None:
        self.public_only = public_only
        self.session: aiohttp.ClientSession | None = None
        self.proxies: dict[tuple[str, str | None], str | None] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        if self.session is not None:
            await self.session.close()
            self.session = None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        most: int | None = None,
        patience: float | None = None,
    ) -> Answer:
        """One request; redirects are answers. most: bytes of the body, decoded, that are taken; None: it is not read.
        patience: seconds without a byte; None: READ_TIMEOUT.

        Raises the errors of this module.
        """
        with _errors():
            # Cursors in addresses that a provider named are kept to the letter.
            address = URL(url, encoded=_PLAIN.fullmatch(url) is not None)
            if self.public_only:
                _check_literal(address.host or "")
            request = self._opened().request(
                method,
                address,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=self._proxy(address),
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=patience or READ_TIMEOUT),
            )
            async with request as response:
                return Answer(response.status, response.headers, b"" if most is None else await _read(response, most))

    def _opened(self) -> aiohttp.ClientSession:
        if self.session is None:
            connector = aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS,
                resolver=_PublicOnly() if self.public_only else aiohttp.ThreadedResolver(),
            )
            self.session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                max_line_size=LONGEST_HEADER,
                max_field_size=LONGEST_HEADER,
            )
        return self.session

    def _proxy(self, address: URL) -> str | None:
        """The environment's proxy for the host. Looked up once: aiohttp would go through files in a thread for each request."""
        if self.public_only:
            return None
        place = (address.scheme, address.host)
        if place not in self.proxies:
            self.proxies[place] = None if proxy_bypass(address.host or "") else getproxies().get(address.scheme)
        return self.proxies[place]


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            raise TooLarge
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_literal(host: str) -> None:
    """Refuses what aiohttp takes for an address, and so does not resolve, unless it is a public one in its usual spelling."""
    if ":" not in host and not host.replace(".", "").isdigit():
        return
    try:
        public = is_public(host)
    except ValueError:
        public = False
    if not public:
        raise PrivateAddress(host)


@contextmanager
def _errors() -> Iterator[None]:
    """aiohttp's errors as this module's."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ConnectTimeout from error
    except aiohttp.ServerTimeoutError as error:
        raise ReadTimeout from error
    except aiohttp.ClientConnectorError as error:
        raise CannotConnect from error
    except (aiohttp.InvalidURL, UnicodeError, ValueError) as error:
        raise InvalidAddress from error
    except (aiohttp.ClientError, OSError) as error:
        raise BrokenOff from error
