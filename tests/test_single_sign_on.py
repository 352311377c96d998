"""Signing in by the company's own identity provider: the way in, and all that must not be one."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import time_machine
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from atom import oidc
from atom.models import AuditEvent, Identity, Membership, Tenant, User
from atom.sockets import actor_of_scope
from atom.tenancy import across_tenants, tenant_scope
from atom.tries import SINGLE_SIGN_ON
from tests.conftest import leads_to
from tests.issuer import CLIENT, SECRET, Issuer
from tests.test_sign_ins import log

BOTH = ["django.contrib.auth.backends.ModelBackend", "atom.single_sign_on.Backend"]


@pytest.fixture
def issuer(settings: Any) -> Iterator[Issuer]:
    running = Issuer()
    settings.OIDC_ISSUER = running.root
    settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = CLIENT, SECRET
    settings.OIDC_NAME = "Acme's door"
    settings.AUTHENTICATION_BACKENDS = BOTH
    running.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"]}
    oidc.forget()
    cache.clear()
    yield running
    running.stop()
    oidc.forget()


@pytest.fixture
def alone(issuer: Issuer, settings: Any) -> Issuer:
    """No passwords."""
    settings.PASSWORDS = False
    settings.AUTHENTICATION_BACKENDS = BOTH[1:]
    return issuer


def there(client: Client, next: str = "") -> str:
    """To the issuer; the address that it sends the browser back to."""
    to = leads_to(client.post("/sign-in/single", {"next": next}))
    return str(httpx2.get(to).headers["location"])


def come(client: Client | None = None, next: str = "") -> Any:
    """The whole way; what the browser gets at its end."""
    client = client or Client()
    return client.get(there(client, next).removeprefix("http://testserver"))


def refused(reply: Any, words: str, status: int) -> None:
    page = reply.content.decode().replace("&#39;", "'")
    assert words in page, page[-1500:]
    assert reply.status_code == status
    assert "Traceback" not in page
    assert "_auth_user_id" not in reply.client.session


# -- the way in -----------------------------------------------------------------------------------------------------------


def test_whom_the_issuer_vouches_for_comes_in_to_where_they_were_going(cast: SimpleNamespace, issuer: Issuer) -> None:
    client = Client()
    assert "Sign in with Acme&#39;s door" in client.get("/sign-in").content.decode()
    back = there(client, "/jobs?status=failed")
    before = client.session.session_key
    reply = client.get(back)
    assert (reply.status_code, reply["Location"]) == (302, "/jobs?status=failed")
    assert client.session.session_key != before, "a session that somebody else may know of is nobody's"
    assert client.get("/jobs").status_code == 200
    identity = Identity.objects.get()
    assert (identity.user, identity.issuer, identity.subject) == (cast.bob, issuer.root, "bob-1")
    client.post("/sign-out")
    assert client.get("/jobs").status_code == 302
    told = [line[:4] for line in log(cast.acme)]
    assert told == [
        ("Bob", "member.signed_in", "bob@acme.test", "with Acme's door, for the first time"),
        ("Bob", "member.signed_out", "bob@acme.test", ""),
    ]
    assert come(client).status_code == 302
    assert log(cast.acme)[-1][3] == "with Acme's door"


def test_what_is_asked_of_the_issuer(cast: SimpleNamespace, issuer: Issuer) -> None:
    to = leads_to(Client().post("/sign-in/single"))
    asked = parse_qs(urlsplit(to).query)
    assert asked["scope"] == ["openid email"]
    assert asked["redirect_uri"] == ["http://testserver/sign-in/return"]
    assert all(len(asked[name][0]) >= 43 for name in ("state", "nonce", "code_challenge"))


@pytest.mark.parametrize("next", ["https://evil.test/", "//evil.test", "javascript:alert(1)", "\\\\evil.test"])
def test_nobody_is_sent_elsewhere(cast: SimpleNamespace, issuer: Issuer, next: str) -> None:
    assert come(next=next)["Location"] == "/integrations"


def test_from_then_on_it_is_the_issuers_name_that_counts(cast: SimpleNamespace, issuer: Issuer) -> None:
    assert come().status_code == 302
    for address in ({"email": "charlie@globex.test"}, {"email": "robert@acme.test", "email_verified": False}, {}):
        issuer.claims = {"sub": "bob-1", **address}
        client = Client()
        assert come(client).status_code == 302
        assert client.session["_auth_user_id"] == str(cast.bob.id)


def test_an_address_that_only_userinfo_tells(cast: SimpleNamespace, issuer: Issuer) -> None:
    issuer.in_token = False
    assert come().status_code == 302
    Identity.objects.all().delete()
    issuer.userinfo = {"sub": "somebody-else"}
    refused(come(), "told of somebody else", 502)
    issuer.userinfo = {"email_verified": "true"}
    refused(come(), "does not vouch", 403)


def test_a_token_that_denies_the_address_is_not_overruled(cast: SimpleNamespace, issuer: Issuer) -> None:
    issuer.bend = lambda claims: claims.update(email_verified=False)
    refused(come(), "does not vouch", 403)
    assert "/userinfo" not in issuer.asked


def test_new_keys_are_asked_for_when_they_are_needed(cast: SimpleNamespace, issuer: Issuer) -> None:
    assert come().status_code == 302
    assert come().status_code == 302
    assert issuer.asked.count("/keys") == issuer.asked.count("/.well-known/openid-configuration") == 1
    issuer.rotate()
    assert come().status_code == 302
    assert issuer.asked.count("/keys") == 2
    kid = issuer.key.kid
    issuer.rotate()
    issuer.header = {"kid": kid}
    issuer.key = RSAKey.import_key(issuer.key.as_dict(private=True) | {"kid": kid})
    assert come().status_code == 302, "another key of the same name"


def test_the_issuer_may_want_the_secret_in_the_header(cast: SimpleNamespace, issuer: Issuer) -> None:
    issuer.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_basic"]}
    assert come().status_code == 302


def test_staff_come_to_the_admin_the_same_way(db: None, alone: Issuer) -> None:
    root = User.objects.create_superuser("root@atom.test", None)
    alone.claims = {"sub": "root", "email": "root@atom.test", "email_verified": True}
    client = Client()
    page = client.get("/admin/", follow=True)
    assert page.redirect_chain[-1][0] == "/sign-in?next=/admin/"
    assert 'type="password"' not in page.content.decode()
    assert come(client, "/admin/")["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200
    page = client.get(f"/admin/atom/user/{root.id}/change/").content.decode()
    assert "root of http" in page
    client.post("/admin/logout/")
    assert client.get("/admin/").status_code == 302


def test_who_is_no_staff_is_not_sent_in_circles(cast: SimpleNamespace, alone: Issuer) -> None:
    client = Client()
    come(client)
    page = client.get("/admin/", follow=True)
    assert page.status_code == 403


# -- who may not ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        {"email": "bob@acme.test"},
        {"email": "bob@acme.test", "email_verified": False},
        {"email": "bob@acme.test", "email_verified": "true"},
        {"email": "bob@acme.test", "email_verified": 1},
        {"email": "bob@acme.test", "xms_edov": True},
        {"email": ["bob@acme.test"], "email_verified": True},
        {"email": "b\0b@acme.test", "email_verified": True},
        {"email_verified": True},
        {},
    ],
)
def test_an_address_that_the_issuer_does_not_vouch_for_opens_nothing(
    cast: SimpleNamespace, issuer: Issuer, address: dict[str, Any]
) -> None:
    issuer.claims = {"sub": "x", **address}
    refused(come(), "Acme's door does not vouch for your e-mail address", 403)
    assert not Identity.objects.exists()


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"email": "Bob@acme.test", "xms_edov": True}, "bob@acme.test"),
        ({"email": "bob@acme.test", "xms_edov": "1"}, "bob@acme.test"),
        ({"email": "bob@acme.test", "xms_edov": False}, ""),
        ({"email": "bob@acme.test", "xms_edov": "0"}, ""),
        ({"email": "bob@acme.test"}, ""),
        ({"email": "bob@acme.test", "xms_edov": True, "email_verified": False}, ""),
    ],
)
def test_microsofts_own_word_for_it(settings: Any, claims: dict[str, Any], found: str) -> None:
    settings.OIDC_ISSUER = "https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000/v2.0"
    assert oidc._address(claims) == found


@pytest.mark.parametrize("email", ["nobody@acme.test", "bob@acme.test.evil.test", "bo\u0062\u0301@acme.test"])
def test_nobody_gets_an_account_by_coming(cast: SimpleNamespace, issuer: Issuer, email: str) -> None:
    before = User.objects.count()
    issuer.claims = {"sub": "x", "email": email, "email_verified": True}
    refused(come(), "There is no account for", 403)
    assert User.objects.count() == before


def test_no_other_letter_is_taken_for_one_of_the_address(cast: SimpleNamespace, issuer: Issuer) -> None:
    User.objects.create_user("kim@acme.test", "kim")
    issuer.claims = {"sub": "x", "email": "\u212aim@acme.test", "email_verified": True}
    refused(come(), "There is no account for", 403)


def test_an_account_that_was_closed_stays_so(cast: SimpleNamespace, issuer: Issuer) -> None:
    User.objects.filter(id=cast.bob.id).update(is_active=False)
    refused(come(), "This account was closed by the operator", 403)
    assert not Identity.objects.exists()
    User.objects.filter(id=cast.bob.id).update(is_active=True)
    client = Client()
    come(client)
    User.objects.filter(id=cast.bob.id).update(is_active=False)
    refused(come(), "This account was closed by the operator", 403)
    assert client.get("/jobs").status_code == 302
    assert log(cast.acme)[-1][1:4] == (
        "member.sign_in_failed",
        "bob@acme.test",
        "with Acme's door: the account is closed",
    )


def test_somebody_else_who_has_the_address_now_is_not_the_same(cast: SimpleNamespace, issuer: Issuer) -> None:
    come()
    issuer.claims["sub"] = "bob-2"
    refused(come(), "Somebody else at Acme's door signed in as bob@acme.test before", 403)
    assert log(cast.acme)[-1][1:4] == (
        "member.sign_in_failed", "bob@acme.test", "with Acme's door: as somebody else of the same address",
    )  # fmt: skip
    assert Identity.objects.get().subject == "bob-1"


def test_the_operator_lets_go_of_who_had_the_address(cast: SimpleNamespace, issuer: Issuer, signed_in: Any) -> None:
    come()
    admin = signed_in(User.objects.create_superuser("root@atom.test", "root"))
    row, where = Identity.objects.get(), f"/admin/atom/user/{cast.bob.id}/change/"
    form = {
        "email": "bob@acme.test", "name": "Bob", "is_active": "on",
        "identities-TOTAL_FORMS": "1", "identities-INITIAL_FORMS": "1",
        "identities-0-id": row.id, "identities-0-user": cast.bob.id, "identities-0-DELETE": "on",
    }  # fmt: skip
    assert admin.post(where, form).status_code == 302
    assert not Identity.objects.exists()
    issuer.claims["sub"] = "bob-2"
    assert come().status_code == 302


def test_another_issuer_knows_nobody_yet(cast: SimpleNamespace, issuer: Issuer) -> None:
    Identity.objects.create(user=cast.alice, issuer="https://before.test", subject="bob-1")
    client = Client()
    come(client)
    assert client.session["_auth_user_id"] == str(cast.bob.id)


# -- what is no token -----------------------------------------------------------------------------------------------------


def bent(**claims: Any) -> Callable[[Issuer], None]:
    def bend(issuer: Issuer) -> None:
        issuer.bend = lambda told: told.update({name: v() if callable(v) else v for name, v in claims.items()})

    return bend


def without(name: str) -> Callable[[Issuer], None]:
    def bend(issuer: Issuer) -> None:
        issuer.bend = lambda told: told.pop(name) and None

    return bend


def by_another_key(issuer: Issuer) -> None:
    other = RSAKey.generate_key(2048)
    issuer.sign = lambda header, claims: jwt.encode(header, claims, other)


def by_no_key(issuer: Issuer) -> None:
    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        nothing = urlsafe_b64encode(json.dumps({**header, "alg": "none"}).encode()).rstrip(b"=").decode()
        return ".".join([nothing, issuer.signed(header, claims).split(".")[1], ""])

    issuer.sign = sign


def by_the_secret(issuer: Issuer) -> None:
    issuer.sign = lambda header, claims: jwt.encode(
        {"alg": "HS256"}, claims, OctKey.import_key(SECRET), algorithms=["HS256"]
    )


def by_the_public_key(issuer: Issuer) -> None:
    """Taken for a shared secret, of which everybody knows it."""
    public = OctKey.import_key(issuer.key.as_pem(private=False).hex())
    issuer.sign = lambda header, claims: jwt.encode({**header, "alg": "HS256"}, claims, public, algorithms=["HS256"])


def with_a_changed_claim(issuer: Issuer) -> None:
    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        honest, forged = issuer.signed(header, claims), issuer.signed(header, {**claims, "sub": "alice"})
        return ".".join([honest.split(".")[0], forged.split(".")[1], honest.split(".")[2]])

    issuer.sign = sign


@pytest.mark.parametrize(
    "bend",
    [
        bent(nonce="another"), without("nonce"), bent(nonce=""), bent(nonce=None),
        bent(aud="another"), bent(aud=["another"]), without("aud"), bent(aud=[]), bent(aud=[CLIENT, "another"]),
        bent(aud="another", azp=CLIENT), bent(azp="another"), bent(aud=[CLIENT, "another"], azp="another"),
        bent(iss="https://another.test"), without("iss"),
        bent(exp=lambda: int(time.time()) - 60), without("exp"), bent(exp="soon"), bent(exp=None), bent(exp=float("inf")),
        without("iat"), bent(iat=lambda: int(time.time()) + 3600), bent(nbf=lambda: int(time.time()) + 3600),
        without("sub"), bent(sub=""), bent(sub=7), bent(at_hash="another"),
        by_another_key, by_no_key, by_the_secret, by_the_public_key, with_a_changed_claim,
    ],
)  # fmt: skip
def test_what_is_not_for_this_sign_in_by_this_issuer_is_no_token(
    cast: SimpleNamespace, issuer: Issuer, bend: Callable[[Issuer], None]
) -> None:
    bend(issuer)
    refused(come(), "is not to be trusted, so you were not signed in", 400)
    assert not Identity.objects.exists()


def test_several_audiences_of_which_this_is_the_one_it_is_for(cast: SimpleNamespace, issuer: Issuer) -> None:
    bent(aud=[CLIENT, "another"], azp=CLIENT)(issuer)
    assert come().status_code == 302


@pytest.mark.parametrize("bend", [bent(sub="a" * 256), bent(sub="a\0b")])
def test_a_name_that_can_be_nobodys(cast: SimpleNamespace, issuer: Issuer, bend: Callable[[Issuer], None]) -> None:
    bend(issuer)
    refused(come(), "named nobody that there can be", 502)


# -- returns that are none ------------------------------------------------------------------------------------------------

NOT_BEGUN = "This sign-in was not begun in this browser"


def test_a_return_serves_the_browser_that_began_and_once(cast: SimpleNamespace, issuer: Issuer) -> None:
    client, other = Client(), Client()
    back = there(client)
    there(other)
    refused(other.get(back), NOT_BEGUN, 400)
    refused(Client().get(back), NOT_BEGUN, 400)
    assert "/token" not in issuer.asked
    assert client.get(back).status_code == 302
    client.post("/sign-out")
    refused(client.get(back), NOT_BEGUN, 400)
    assert issuer.asked.count("/token") == 1


def test_a_return_with_another_state_or_none_or_too_late(cast: SimpleNamespace, issuer: Issuer) -> None:
    client = Client()
    back = there(client)
    for changed in (
        back.replace("state=", "state=x"),
        back.partition("&state")[0],
        f"{back.partition('&state')[0]}&state=%00%e9",
    ):
        refused(client.get(changed), NOT_BEGUN, 400)
    with time_machine.travel(time.time() + 601, tick=True):
        refused(client.get(back), NOT_BEGUN, 400)
    assert "/token" not in issuer.asked


def test_a_return_that_failed_does_not_serve_again(cast: SimpleNamespace, issuer: Issuer) -> None:
    client = Client()
    back = there(client)
    issuer.raw["/token"] = lambda request: issuer.say(request, {}, 503)
    refused(client.get(back), "has a problem of its own", 502)
    del issuer.raw["/token"]
    refused(client.get(back), NOT_BEGUN, 400)


def test_codes_are_of_the_way_that_they_were_given_on(cast: SimpleNamespace, issuer: Issuer) -> None:
    """Another's code in one's own return: PKCE's verifier is not the other's."""
    mine, theirs = Client(), Client()
    back, other = there(mine), there(theirs)
    code = parse_qs(urlsplit(other).query)["code"][0]
    state = parse_qs(urlsplit(back).query)["state"][0]
    refused(mine.get("/sign-in/return", {"code": code, "state": state}), "did not confirm the sign-in", 400)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"error": "access_denied", "error_description": "<script>"}, "did not let you sign in"),
        ({"code": ""}, "no usable code"),
        ({"code": "x" * 5000}, "no usable code"),
        ({"code": "made-up"}, "did not confirm the sign-in"),
        ({"code": "made-up", "iss": "https://another.test"}, NOT_BEGUN),
    ],
)
def test_returns_without_a_code_are_told_in_words(
    cast: SimpleNamespace, issuer: Issuer, more: dict[str, str], words: str
) -> None:
    client = Client()
    state = parse_qs(urlsplit(there(client)).query)["state"][0]
    reply = client.get("/sign-in/return", {"state": state, **more})
    refused(reply, words, 400)
    assert b"<script>" not in reply.content


def test_nobody_else_begins_a_sign_in_for_a_browser(cast: SimpleNamespace, issuer: Issuer) -> None:
    assert Client(enforce_csrf_checks=True).post("/sign-in/single").status_code == 403
    assert Client().get("/sign-in/single").status_code == 405


def test_there_is_an_end_to_beginning(cast: SimpleNamespace, issuer: Issuer) -> None:
    for _ in range(SINGLE_SIGN_ON["address"]):
        assert Client().post("/sign-in/single").status_code == 200
    refused(Client().post("/sign-in/single"), "Too many tries", 429)


def test_a_company_comes_from_one_address(
    cast: SimpleNamespace, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SINGLE_SIGN_ON, "address", 2)
    assert [come().status_code for _ in range(4)] == [302] * 4


# -- an issuer that does not do its part ----------------------------------------------------------------------------------

WAYS = ("/.well-known/openid-configuration", "/token", "/keys", "/userinfo")


def garbage(request: Any) -> None:
    Issuer.say(request, b"<html>\xff\0")


def a_list(request: Any) -> None:
    Issuer.say(request, [])


def nested(request: Any) -> None:
    Issuer.say(request, b"[" * 100_000)


def nothing(request: Any) -> None:
    Issuer.say(request, b"", 200)


def elsewhere(request: Any) -> None:
    Issuer.say(request, {}, 302, Location="http://127.0.0.1:1/")


def broken(request: Any) -> None:
    Issuer.say(request, {}, 500)


def huge(request: Any) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b" " * 64 * 1024)


def a_bomb(request: Any) -> None:
    Issuer.say(request, b"x", Content_Encoding="gzip")


def hung_up(request: Any) -> None:
    request.connection.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [garbage, a_list, nested, nothing, elsewhere, broken, huge, a_bomb, hung_up])
def test_an_answer_that_is_none_is_told_in_words(
    cast: SimpleNamespace, issuer: Issuer, way: str, answer: Callable[[Any], None]
) -> None:
    issuer.in_token = way != "/userinfo"
    client = Client()
    if way != WAYS[0]:
        back = there(client)
    issuer.raw[way] = answer
    reply = client.post("/sign-in/single") if way == WAYS[0] else client.get(back)
    refused(reply, "Acme's door", 502)
    assert "Sign in with Acme&#39;s door" in reply.content.decode(), "the way to try again"


@pytest.mark.parametrize("way", WAYS)
def test_no_more_is_read_of_an_answer_than_there_can_be_to_say(cast: SimpleNamespace, issuer: Issuer, way: str) -> None:
    issuer.in_token = way != "/userinfo"
    client, sent = Client(), []
    if way != WAYS[0]:
        back = there(client)

    def endless(request: Any) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(b" " * 64 * 1024)
            sent.append(64 * 1024)

    issuer.raw[way] = endless
    refused(client.post("/sign-in/single") if way == WAYS[0] else client.get(back), "can't be reached", 502)
    assert sum(sent) < 16 * 1024 * 1024, "what a socket takes, and then it was hung up"


@pytest.mark.parametrize("way", ["/.well-known/openid-configuration", "/token", "/keys"])
@pytest.mark.parametrize("drips", [False, True])
def test_an_issuer_that_is_slow_holds_nobody_up_for_long(
    cast: SimpleNamespace, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, way: str, drips: bool
) -> None:
    monkeypatch.setattr(oidc, "TIMEOUT", 0.3)
    monkeypatch.setattr(oidc, "WHOLE", 0.5)
    client = Client()
    if way != WAYS[0]:
        back = there(client)

    def slow(request: Any) -> None:
        if drips:
            request.send_response(200)
            request.end_headers()
        for _ in range(40):
            time.sleep(0.1)
            if drips:
                request.wfile.write(b" ")

    issuer.raw[way] = slow
    began = time.monotonic()
    reply = client.post("/sign-in/single") if way == WAYS[0] else client.get(back)
    refused(reply, "takes too long to answer", 502)
    assert time.monotonic() - began < 2.5


def test_an_issuer_that_is_away(cast: SimpleNamespace, issuer: Issuer, settings: Any) -> None:
    settings.OIDC_ISSUER = "http://127.0.0.1:1"
    refused(Client().post("/sign-in/single"), "can't be reached", 502)


def test_an_issuer_that_everybody_asks_at_once(cast: SimpleNamespace, issuer: Issuer) -> None:
    for _ in range(oidc.AT_ONCE):
        assert oidc._talking.acquire(timeout=1)
    try:
        refused(Client().post("/sign-in/single"), "Many people are signing in", 502)
    finally:
        for _ in range(oidc.AT_ONCE):
            oidc._talking.release()
    assert Client().post("/sign-in/single").status_code == 200, "and each that ended gave its place back"


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://another.test"},
        {"issuer": None},
        {"token_endpoint": "http://another.test/token"},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://[::/"},
    ],
)
def test_an_issuer_that_says_what_can_not_be_of_itself(
    cast: SimpleNamespace, issuer: Issuer, metadata: dict[str, Any]
) -> None:
    issuer.metadata = metadata
    refused(Client().post("/sign-in/single"), "Acme's door", 502)


def test_no_secret_is_in_the_log(cast: SimpleNamespace, issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bent(nonce="another")(issuer)
    come()
    assert "nonce" in caplog.text
    for secret in (SECRET, "for-userinfo", "eyJ"):
        assert secret not in caplog.text


# -- how long ---------------------------------------------------------------------------------------------------------------


def test_a_session_ends_twelve_hours_after_the_sign_in_whatever_was_done_meanwhile(
    cast: SimpleNamespace, issuer: Issuer
) -> None:
    client, by_password = Client(), Client()
    by_password.post("/sign-in", {"email": "alice@acme.test", "password": "alice"})
    with time_machine.travel(timezone.now(), tick=False) as clock:
        come(client)
        socket = {"session": client.session, "user": cast.bob}
        clock.shift(timedelta(hours=11, minutes=59))
        client.post("/workspace", {"tenant": str(cast.acme.id)})
        assert client.get("/jobs").status_code == 200
        assert actor_of_scope(socket, again=True) is not None
        clock.shift(timedelta(minutes=2))
        assert client.get("/jobs").status_code == 302
        assert actor_of_scope(socket, again=True) is None, "what is open hears no more"
        assert by_password.get("/jobs").status_code == 200


def test_who_came_by_the_issuer_is_led_there_again_and_back_to_the_page(cast: SimpleNamespace, issuer: Issuer) -> None:
    client = Client()
    come(client)
    with time_machine.travel(timezone.now() + timedelta(hours=13)):
        reply = client.get("/jobs?status=failed", follow=True)
        back = httpx2.get(leads_to(reply)).headers["location"]
        assert client.get(back.removeprefix("http://testserver"))["Location"] == "/jobs?status=failed"
        assert client.get("/jobs").status_code == 200


def test_nobody_is_led_there_twice_or_after_they_signed_out_or_by_a_password(
    cast: SimpleNamespace, issuer: Issuer
) -> None:
    def at_the_door(client: Client) -> bool:
        return "Forgot your password?" in client.get("/sign-in").content.decode()

    client = Client()
    come(client)
    client.session.flush()
    assert not at_the_door(client)
    assert at_the_door(client), "the issuer may have kept them"
    come(client)
    client.post("/sign-out")
    assert at_the_door(client)
    client.post("/sign-in", {"email": "alice@acme.test", "password": "alice"})
    client.session.flush()
    assert at_the_door(client)
    come(client)
    client.session.flush()
    issuer.stop()
    oidc.forget()
    refused(client.get("/sign-in"), "can't be reached", 502)
    assert at_the_door(client)


# -- without passwords ----------------------------------------------------------------------------------------------------


def test_without_an_issuer_there_is_no_such_way(cast: SimpleNamespace) -> None:
    assert Client().post("/sign-in/single").status_code == 404
    assert Client().get("/sign-in/return?state=x&code=y").status_code == 404
    assert "Sign in with" not in Client().get("/sign-in").content.decode()


def test_without_passwords_no_way_leads_in_by_one(cast: SimpleNamespace, alone: Issuer) -> None:
    from atom.accounts import link_for

    page = Client().get("/sign-in").content.decode()
    assert "Sign in with Acme&#39;s door" in page
    assert "assword" not in page
    client = Client()
    assert client.post("/sign-in", {"email": "bob@acme.test", "password": "bob"}).status_code == 403
    assert client.post("/admin/login/", {"username": "bob@acme.test", "password": "bob"}).status_code == 302
    assert not client.login(username="bob@acme.test", password="bob")
    for name in ("reset-password", "set-password"):
        path = link_for(cast.bob, name, "")
        assert client.get(path, follow=True).status_code == 404
        assert (
            client.post(path, {"new_password1": "a long one indeed", "new_password2": "a long one indeed"}).status_code
            == 404
        )
    assert client.get("/password/forgotten").status_code == 404
    assert client.post("/password/forgotten", {"email": "bob@acme.test"}).status_code == 404
    assert mail.outbox == []
    assert "_auth_user_id" not in client.session
    come(client)
    assert client.get("/password").status_code == 404
    assert "Change password" not in client.get("/jobs").content.decode()


def test_sessions_end_with_the_way_that_they_began_by(cast: SimpleNamespace, issuer: Issuer, settings: Any) -> None:
    by_password, by_issuer = Client(), Client()
    by_password.post("/sign-in", {"email": "alice@acme.test", "password": "alice"})
    come(by_issuer)
    assert [one.get("/jobs").status_code for one in (by_password, by_issuer)] == [200, 200]
    settings.AUTHENTICATION_BACKENDS = BOTH[1:]
    assert [one.get("/jobs").status_code for one in (by_password, by_issuer)] == [302, 200]
    settings.AUTHENTICATION_BACKENDS = BOTH[:1]
    assert [one.get("/jobs").status_code for one in (by_password, by_issuer)] == [200, 302]


def test_beside_it_a_link_of_an_invitation_still_signs_in(
    cast: SimpleNamespace, issuer: Issuer, signed_in: Any
) -> None:
    signed_in(cast.alice).post("/settings/members", {"email": "eve@new.test", "role": "member"})
    [letter] = mail.outbox
    assert "Sign in with Acme's door: http://testserver/\n" in letter.body
    path = letter.body.partition("http://testserver/welcome/")[2].split()[0]
    eve = Client()
    where = eve.get(f"/welcome/{path}", follow=True).redirect_chain[-1][0]
    form = {"new_password1": "a long one indeed", "new_password2": "a long one indeed"}
    assert eve.post(where, form).status_code == 302
    assert eve.get("/jobs").status_code == 200


def test_who_is_invited_where_there_are_no_passwords_comes_by_the_issuer(
    cast: SimpleNamespace, alone: Issuer, signed_in: Any, settings: Any
) -> None:
    alice = signed_in(cast.alice)
    alice.post("/settings/members", {"email": "eve@new.test", "role": "admin"})
    [letter] = mail.outbox
    assert "Sign in with Acme's door:\n\nhttp://testserver/\n" in letter.body
    assert "assword" not in letter.body
    assert "/welcome/" not in letter.body
    assert "Invited" in alice.get("/settings/members").content.decode()
    alone.claims = {"sub": "eve", "email": "eve@new.test", "email_verified": True}
    eve = Client()
    assert come(eve).status_code == 302
    assert "Invited" not in eve.get("/settings/members").content.decode()
    with tenant_scope(cast.acme.id):
        from historical_sync.automation import NotificationPreference

        member = Membership.objects.select_related("user").get(user__email="eve@new.test")
        assert NotificationPreference.of(member).failed, "who came hears of failed imports as any admin"
        assert AuditEvent.objects.filter(action="member.invited").count() == 1


def test_a_tenants_owner_needs_no_password_where_there_are_none(db: None, alone: Issuer) -> None:
    call_command("create_tenant", "Initech", slug="initech", plan="free", owner="bill@initech.test")
    assert not User.objects.get(email="bill@initech.test").has_usable_password()
    alone.claims = {"sub": "bill", "email": "bill@initech.test", "email_verified": True}
    client = Client()
    come(client)
    with across_tenants("the test looks"):
        assert Tenant.objects.get(slug="initech").memberships.get().user.email == "bill@initech.test"
    assert client.get("/integrations").status_code == 200
