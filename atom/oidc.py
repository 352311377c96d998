"""OpenID Connect with the deployment's one issuer: the authorization code flow with PKCE, up to claims that are verified.

Authlib speaks the protocol. Here is what it leaves open: what is asked where, for how long and how much of it is read, which algorithms
are good enough, and an error in words for whatever the issuer does. Who may enter is decided in `atom.single_sign_on`.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from django.conf import settings
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from atom.addresses import is_sealed
from atom.authorities import authorities

log = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds for a connection, and between two parts of an answer
WHOLE = 10.0  # for an answer
MOST = 256 * 1024  # bytes of one
KEPT = 3600.0  # seconds that what the issuer says of itself and its keys are good for
LEEWAY = 30  # seconds that its clock may differ from ours
AT_ONCE = 8  # conversations with it: one that hangs must not take all threads that answer requests
# Signatures that only the issuer can make. None by a shared secret, and not "none".
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
# Microsoft never says "email_verified". Its own claim says that the owner of the address's domain vouches for it.
MICROSOFT = (
    "https://login.microsoftonline.com/",
    "https://login.microsoftonline.us/",
    "https://login.partner.microsoftonline.cn/",
)

_talking = threading.BoundedSemaphore(AT_ONCE)
_known: dict[str, tuple[float, dict[str, Any]]] = {}  # address -> when it was read, what it said


class Problem(Exception):
    """Nobody can sign in this way just now, in words. status: 502 where it is the issuer's, 400 where it is the browser's."""

    def __init__(self, words: str, status: int = 502) -> None:
        super().__init__(words)
        self.status = status


class Trip(NamedTuple):
    """What a browser's way to the issuer and back began with: known to its session alone."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str


class Person(NamedTuple):
    """Whom the issuer says it is. address: in lower case, and "" where the issuer does not vouch for it."""

    subject: str
    address: str


def begin(redirect_uri: str) -> tuple[str, Trip]:
    """Where to send the browser, and what to keep for its return."""
    trip = Trip(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), redirect_uri)
    with _conversation() as client:
        address, _ = client.create_authorization_url(
            _metadata(client)["authorization_endpoint"],
            redirect_uri=redirect_uri,
            state=trip.state,
            nonce=trip.nonce,
            code_verifier=trip.verifier,
        )
    return address, trip


def finish(trip: Trip, code: str) -> Person:
    """Whom a code is for, which the issuer gave the browser at the end of the trip."""
    with _conversation() as client:
        metadata = _metadata(client)
        methods = metadata.get("token_endpoint_auth_methods_supported")
        if isinstance(methods, list) and "client_secret_post" in methods:
            # Of which all have the same idea. In the header some take a secret as it is, and some decode it first.
            client.token_endpoint_auth_method = "client_secret_post"
        token = client.fetch_token(
            metadata["token_endpoint"],
            grant_type="authorization_code",
            code=code,
            redirect_uri=trip.redirect_uri,
            code_verifier=trip.verifier,
        )
        claims = _verified(client, token, trip.nonce)
        subject = claims["sub"]
        if not 0 < len(subject) <= 255 or not subject.isprintable():
            raise Problem(f"{settings.OIDC_NAME} named nobody that there can be.")
        address = _address(claims)
        told = {"email", "email_verified"} <= claims.keys()
        if not address and not told and is_sealed(metadata.get("userinfo_endpoint"), with_query=True):
            # What belongs to a scope need not be in the token where there is another place to ask for it.
            more = _object(client.get(metadata["userinfo_endpoint"]))
            if more.get("sub") != subject:
                raise Problem(f"{settings.OIDC_NAME} told of somebody else than who signed in.")
            address = _address(more)
        return Person(subject, address)


def forget() -> None:
    """What the issuer said of itself is asked for anew."""
    _known.clear()


def _verified(client: OAuth2Client, token: Mapping[str, Any], nonce: str) -> CodeIDToken:
    id_token = token.get("id_token")
    if not isinstance(id_token, str):
        raise Problem(f"{settings.OIDC_NAME} did not say who signed in.")
    try:
        decoded = _decoded(id_token, _keys(client))
    except (InvalidKeyIdError, BadSignatureError):
        decoded = _decoded(id_token, _keys(client, anew=True))  # it has other keys by now
    required = {"essential": True}
    claims = CodeIDToken(
        decoded.claims,
        decoded.header,
        {
            "iss": {**required, "value": settings.OIDC_ISSUER},
            "aud": {**required, "value": settings.OIDC_CLIENT_ID},
            "sub": required,
        },
        {"nonce": nonce, "client_id": settings.OIDC_CLIENT_ID, "access_token": token.get("access_token")},
    )
    claims.validate(leeway=LEEWAY)
    return claims


def _decoded(id_token: str, keys: KeySet) -> jwt.Token:
    return jwt.decode(id_token, keys, registry=JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False))


def _address(claims: Mapping[str, Any]) -> str:
    email = claims.get("email")
    if not isinstance(email, str) or len(email) > 254 or not email.isprintable():
        return ""
    if "email_verified" in claims:
        vouched = claims["email_verified"] is True
    else:
        vouched = settings.OIDC_ISSUER.startswith(MICROSOFT) and claims.get("xms_edov") in (True, "1", "true")
    if not vouched:
        return ""
    # As accounts' are. Of other letters only as they are: to Python a sign for kelvin in lower case is a "k".
    return email.lower() if email.isascii() else email


def _metadata(client: OAuth2Client) -> dict[str, Any]:
    found = _read(client, settings.OIDC_ISSUER.rstrip("/") + "/.well-known/openid-configuration")
    if found.get("issuer") != settings.OIDC_ISSUER:
        log.error("ATOM_OIDC_ISSUER is %s, and what is there calls itself %.200r", settings.OIDC_ISSUER, found.get("issuer"))  # fmt: skip
        raise Problem(f"{settings.OIDC_NAME} is another than this Atom was told of. Ask whoever runs it.")
    if not all(is_sealed(found.get(name), with_query=True) for name in ENDPOINTS):
        raise Problem(f"{settings.OIDC_NAME} does not say where to sign in.")
    return found


def _keys(client: OAuth2Client, *, anew: bool = False) -> KeySet:
    return KeySet.import_key_set(_read(client, _metadata(client)["jwks_uri"], anew=anew))  # type: ignore[arg-type]


def _read(client: OAuth2Client, address: str, *, anew: bool = False) -> dict[str, Any]:
    at, said = _known.get(address, (0.0, {}))
    if anew or not said or time.monotonic() - at > KEPT:
        said = _object(client.request("GET", address, withhold_token=True))
        _known[address] = time.monotonic(), said
    return said


def _object(response: Any) -> dict[str, Any]:
    response.raise_for_status()
    said = response.json()
    if not isinstance(said, dict):
        raise ValueError("no object")
    return said


@contextmanager
def _conversation() -> Iterator[OAuth2Client]:
    """A client to talk to the issuer with. Whatever goes wrong is a Problem."""
    name = settings.OIDC_NAME
    if not _talking.acquire(timeout=1):
        raise Problem(f"Many people are signing in with {name} just now. Try again in a moment.")
    try:
        with OAuth2Client(
            settings.OIDC_CLIENT_ID,
            settings.OIDC_CLIENT_SECRET,
            scope="openid email",
            code_challenge_method="S256",
            timeout=TIMEOUT,
            verify=authorities(),
            headers={"User-Agent": "Atom/1 (sign-in)", "Accept-Encoding": "identity"},
            event_hooks={"response": [_bound]},
        ) as client:
            yield client
    except AuthlibBaseError as error:  # of the token's endpoint: a code that was used, a client that it does not know
        log.warning("signing in with %s: the issuer refused the code: %.200r", name, error.error)
        raise Problem(f"{name} did not confirm the sign-in. Try again.", 400) from None
    except JoseError as error:
        log.warning("signing in with %s: the token is refused: %.200s", name, error)
        raise Problem(f"What {name} sent is not to be trusted, so you were not signed in. Try again.", 400) from None
    except httpx2.TimeoutException:
        log.warning("signing in with %s: no answer in time", name)
        raise Problem(f"{name} takes too long to answer. Try again in a moment.") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        log.warning("signing in with %s: %s: %.200s", name, type(error).__name__, error)
        raise Problem(f"{name} can't be reached, or has a problem of its own. Try again in a moment.") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # all that an answer can be
        log.warning("signing in with %s: the answer makes no sense: %s", name, type(error).__name__)
        raise Problem(f"{name} gave an answer that makes no sense. Try again in a moment.") from None
    finally:
        _talking.release()


def _bound(response: httpx2.Response) -> None:
    """Has no more read than there can be to say, and not for longer."""
    if response.headers.get("content-encoding", "identity") != "identity":  # which could be of any size
        raise httpx2.DecodingError("compressed, which was not asked for")
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[bytes]:
        size, until = 0, time.monotonic() + WHOLE
        for part in self.inner:
            size += len(part)
            if size > MOST:
                raise httpx2.ReadError(f"more than {MOST} bytes")
            if time.monotonic() > until:
                raise httpx2.ReadTimeout("it drips")
            yield part

    def close(self) -> None:
        self.inner.close()
