"""One message to an address that a customer gave: no redirects, time-outs, and public hosts only, seen to when the connection is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from django.conf import settings

from integrations import transport
from integrations.errors import Misconfigured, Unavailable
from integrations.http import check_address, check_public_address, make_client
from integrations.transport import PrivateAddress

SECONDS = 15.0  # for the whole of it


def check_target(url: str) -> None:
    """Refuses an address that messages must not go to. Raises Misconfigured in words for the form."""
    if len(url) > 500:
        raise Misconfigured("The address is too long.")
    if not url.isprintable():  # it is written into the audit log, and no text of the database holds NUL
        raise Misconfigured("The address must not contain line breaks or other characters that can't be seen.")
    check_address(url, with_query=True)  # automation services have their key there
    if settings.PRODUCTION and urlsplit(url).scheme != "https":
        raise Misconfigured("The address must begin with https://.")
    if not settings.ALLOW_PRIVATE_HOSTS:
        check_public_address(url, with_query=True)


async def post(url: str, body: str, headers: Mapping[str, str]) -> int:
    """The status that the receiver answered with; its body is not read. Raises Unavailable or Misconfigured in words."""
    try:
        async with asyncio.timeout(SECONDS), make_client(allow_private=settings.ALLOW_PRIVATE_HOSTS) as client:
            return (await client.send("POST", url, headers, body.encode())).status
    except PrivateAddress:
        raise Misconfigured("The address leads to a private network, which this deployment does not allow.") from None
    except (TimeoutError, transport.ConnectTimeout, transport.ReadTimeout):
        raise Unavailable(f"No answer within {SECONDS:.0f} s.") from None
    except transport.CannotConnect:
        raise Unavailable("The host could not be reached.") from None
    except transport.BrokenOff:
        raise Unavailable("The connection broke off.") from None
    except transport.InvalidAddress:
        raise Misconfigured("This is not a valid address.") from None
