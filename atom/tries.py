"""How often somebody may try: to sign in, to tell an old password, to have a link sent. Of any account, whether there is one or not."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse

WINDOW = 300  # seconds
TOO_MANY = "Too many tries. Wait five minutes and try again."
# Of one account from one address, of one account from anywhere, from one address to any account.
SIGN_IN = {"pair": 5, "account": 30, "address": 50}  # that failed
SINGLE_SIGN_ON = {"address": 50}  # of which each asks the issuer
LINK = {"pair": 3, "account": 6, "address": 30}  # that fill somebody's mailbox
# Of a day, that are written into the audit log.
DAY = 86_400
FAILED_LINES = {"pair": 5, "account": 20, "address": 100}
LINES = {"pair": 50}  # of who knows the password; whoever comes from elsewhere is told of in any case


@dataclass(frozen=True, slots=True)
class Tries:
    """The tries of an account from an address within so many seconds. keys: kind -> where they are counted."""

    limits: Mapping[str, int]
    keys: Mapping[str, str]
    window: int = WINDOW

    def one_too_many(self) -> bool:
        """Counts a try that is about to be made, unless there were enough already.

        Before and not after it: of many at once each would find that none has failed yet. What is one too many of a pair counts for
        nothing else, or one address could keep an account's owner out.
        """
        return any(self._count(key) > self.limits[kind] for kind, key in self.keys.items())

    def _count(self, key: str) -> int:
        cache.add(key, 0, self.window)
        try:
            return cache.incr(key)
        except ValueError:  # it ran out in between
            cache.set(key, 1, self.window)
            return 1

    def forgive(self) -> None:
        """It was them after all."""
        for kind, key in self.keys.items():
            if kind == "pair":
                cache.delete(key)
            else:
                with suppress(ValueError):  # it ran out
                    cache.decr(key)


def to_sign_in(request: HttpRequest, email: str) -> Tries:
    return Tries(SIGN_IN, _keys("sign-in", request, email))


def to_single_sign_on(request: HttpRequest) -> Tries:
    return Tries(SINGLE_SIGN_ON, {"address": _keys("single-sign-on", request, "")["address"]})


def for_a_link(request: HttpRequest, email: str) -> Tries:
    return Tries(LINK, _keys("link", request, email))


def of_an_invitation(request: HttpRequest, email: str) -> Tries:
    """Counted with the links that are asked for, but not by address: whoever invites a company does so from one."""
    return Tries({"account": LINK["account"]}, {"account": _keys("link", request, email)["account"]})


def for_a_failed_line(request: HttpRequest, email: str) -> Tries:
    """Lines of the audit log that somebody writes who knows no password, and could go on writing for ever."""
    return Tries(FAILED_LINES, _keys("failed-line", request, email), DAY)


def for_a_line(request: HttpRequest, email: str) -> Tries:
    return Tries(LINES, {"pair": _keys("line", request, email)["pair"]}, DAY)


def address_of(request: HttpRequest) -> str | None:
    """The client's address, as the server has it of the proxy (README): what tries are counted by. None if it is none."""
    try:
        ip = ipaddress.ip_address(request.META.get("REMOTE_ADDR", "").partition("%")[0])
    except ValueError:
        return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def refused(response: HttpResponse) -> HttpResponse:
    """The response, as one that says "too many"."""
    response.status_code = 429
    response["Retry-After"] = str(WINDOW)
    return response


def _keys(what: str, request: HttpRequest, email: str) -> dict[str, str]:
    address = _place(request.META.get("REMOTE_ADDR", ""))
    parts = {"pair": f"{email} {address}", "address": address, "account": email}
    return {kind: f"{what}:{kind}:{hashlib.sha256(value.encode()).hexdigest()[:32]}" for kind, value in parts.items()}


def _place(address: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, for whoever has one address of it has all of them."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return address
