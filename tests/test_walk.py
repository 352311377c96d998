"""Every address of the site as a stranger, as a viewer, and signed out. A route that is not in the table fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from atom.models import ApiKey, Membership, Role
from atom.tenancy import across_tenants, tenant_scope
from historical_sync.routing import websocket_urlpatterns
from tests.graphs import one_of_everything

# (method, what Charlie of another tenant sees, what Vera the viewer sees, what somebody signed out sees)
SIGN_IN = "sign-in"
WALK: dict[str, tuple[str, Any, Any, Any]] = {
    # Of nobody in particular
    "home": ("get", 302, 302, 302),
    "sign-in": ("get", 302, 302, 200),
    "sign-out": ("post", 302, 302, 302),
    "single-sign-on": ("post", 404, 404, 404),  # where there is no issuer
    "single-sign-on-return": ("get", 404, 404, 404),
    "forgot-password": ("get", 200, 200, 200),
    "reset-password": ("get", 200, 200, 200),
    "appearance": ("post", 302, 302, 302),
    "api-schema": ("get", 200, 200, 200),
    # Of whoever asks: their own tenant's
    "switch-tenant": ("post", 404, 302, SIGN_IN),
    "integrations": ("get", 200, 200, SIGN_IN),
    "sync-selected": ("post", 404, 403, SIGN_IN),
    "connect-start": ("post", 409, 403, SIGN_IN),
    "connect-callback": ("get", 400, 403, SIGN_IN),
    "connect-token": ("get", 200, 403, SIGN_IN),
    "live": ("get", 200, 200, SIGN_IN),
    "queued": ("get", 200, 200, SIGN_IN),
    "schedules": ("get", 200, 200, SIGN_IN),
    "jobs": ("get", 200, 200, SIGN_IN),
    "settings": ("get", 200, 403, SIGN_IN),
    "settings-members": ("get", 200, 403, SIGN_IN),
    "settings-member": ("post", 404, 403, SIGN_IN),
    "settings-leave": ("get", 200, 200, SIGN_IN),
    "settings-keys": ("get", 200, 403, SIGN_IN),
    "settings-key-revoke": ("post", 404, 403, SIGN_IN),
    "settings-audit": ("get", 200, 403, SIGN_IN),
    "settings-audit-csv": ("get", 200, 403, SIGN_IN),
    "change-password": ("get", 200, 200, SIGN_IN),
    "set-password": ("get", 200, 200, 200),
    "analytics": ("get", 200, 200, SIGN_IN),
    "coverage": ("get", 200, 200, SIGN_IN),
    "entities": ("get", 200, 200, SIGN_IN),
    "notifications": ("get", 200, 200, SIGN_IN),
    "webhooks": ("get", 200, 403, SIGN_IN),
    "styleguide": ("get", 200, 200, SIGN_IN),
    # Of Acme
    "connection-parts": ("post", 404, 403, SIGN_IN),
    "disconnect": ("post", 404, 403, SIGN_IN),
    "estimate-selected": ("get", 404, 403, SIGN_IN),
    "queued-take-back": ("post", 404, 403, SIGN_IN),
    "webhook": ("post", 404, 403, SIGN_IN),
    "webhook-resend": ("post", 404, 403, SIGN_IN),
    "schedule": ("post", 404, 403, SIGN_IN),
    "import": ("post", 404, 403, SIGN_IN),
    "sync-new": ("post", 404, 403, SIGN_IN),
    "import-estimate": ("get", 404, 403, SIGN_IN),
    "job": ("get", 404, 200, SIGN_IN),
    "job-live": ("get", 404, 200, SIGN_IN),
    "job-detail": ("get", 404, 200, SIGN_IN),
    "job-pause": ("post", 404, 403, SIGN_IN),
    "job-resume": ("post", 404, 403, SIGN_IN),
    "job-cancel": ("post", 404, 403, SIGN_IN),
    "coverage-connection": ("get", 404, 200, SIGN_IN),
    "coverage-repair": ("post", 404, 403, SIGN_IN),
    "job-replay": ("post", 404, 403, SIGN_IN),
    "entity": ("get", 404, 200, SIGN_IN),
    "api-start": ("post", 404, 403, 401),
    "api-jobs": ("get", 404, 200, 401),
    "api-all-jobs": ("get", 200, 200, 401),
    "api-job": ("get", 404, 200, 401),
    "api-cancel": ("post", 404, 403, 401),
    "api-pause": ("post", 404, 403, 401),
    "api-resume": ("post", 404, 403, 401),
    "api-events": ("get", 404, 200, 401),
    "api-failures": ("get", 404, 200, 401),
    "api-quarantined": ("get", 404, 200, 401),
    "api-replay": ("post", 404, 403, 401),
    "api-entities": ("get", 200, 200, 401),
    "api-entity": ("get", 404, 200, 401),
    "api-relationships": ("get", 200, 200, 401),
    "api-partitions": ("post", 404, 403, 401),
    "api-connections": ("get", 200, 200, 401),
    "api-connection": ("get", 404, 200, 401),
    "api-coverage": ("get", 404, 200, 401),
    "api-disconnect": ("post", 404, 403, 401),
    "api-records": ("get", 404, 403, 401),
    "api-record": ("get", 404, 403, 401),
}
# What people do whichever their workspace.
OF_NO_WORKSPACE = {
    "home", "sign-out", "appearance", "switch-tenant", "change-password", "forgot-password", "reset-password", "set-password",
    "single-sign-on", "single-sign-on-return",
}  # fmt: skip
SOCKETS = {"ws/historical-sync/<str:job_id>", "ws/notifications", "ws/pages", "ws/pages/jobs/<str:job_id>"}
TENANT_WIDE = {"ws/notifications", "ws/pages"}


def routes(patterns: Any = None, prefix: str = "") -> dict[str, str]:
    """name -> route of every address but the admin's, which is staff's alone."""
    found: dict[str, str] = {}
    for entry in patterns if patterns is not None else get_resolver().url_patterns:
        route = prefix + str(entry.pattern)
        if route.startswith("admin/"):
            continue
        if isinstance(entry, URLResolver):
            found |= routes(entry.url_patterns, route)
        elif isinstance(entry, URLPattern):
            assert entry.name, f"{route} has no name"
            found[entry.name] = route
    return found


@pytest.fixture
def acme(cast: SimpleNamespace) -> SimpleNamespace:
    made = one_of_everything(cast.acme)
    made.cast = cast
    return made


# placeholder -> what of Acme's stands in its place, by path
PLACES = {
    "<uuid:job_id>": "job.id",
    "<str:job_id>": "job.id",
    "<uuid:connection_id>": "connection.id",
    "<str:connection_id>": "connection.id",
    "<str:integration_id>": "connection.id",
    "<uuid:entity_id>": "entity.id",
    "<str:entity_id>": "entity.id",
    "<str:record_id>": "record.id",
    "<uuid:queued_id>": "queued.id",
    "<uuid:endpoint_id>": "endpoint.id",
    "<uuid:delivery_id>": "delivery.id",
    "<uuid:membership_id>": "membership.id",
    "<str:prefix>": "key.prefix",
}
FIXED = {"<slug:slug>": "github", "<str:uidb64>": "MQ", "<str:token>": "a-b"}


def address(route: str, acme: SimpleNamespace) -> str:
    for placeholder, path in PLACES.items():
        if placeholder in route:
            route = route.replace(placeholder, str(attrgetter(path)(acme)))
    for placeholder, value in FIXED.items():
        route = route.replace(placeholder, value)
    assert "<" not in route, f"the walk does not know how to fill {route}"
    return f"/{route}"


def form_of(name: str, acme: SimpleNamespace) -> dict[str, str]:
    return {
        "sync-selected": {"connection": str(acme.connection.id)},
        "estimate-selected": {"connection": str(acme.connection.id)},
        "switch-tenant": {"tenant": str(acme.cast.acme.id)},
    }.get(name, {})


def test_the_walk_knows_every_route() -> None:
    assert set(routes()) == set(WALK)
    *known, rest = websocket_urlpatterns
    assert {str(pattern.pattern) for pattern in known} == SOCKETS
    assert str(rest.pattern) == "", "what is at no address of ours"


def test_a_socket_to_nowhere_is_refused_before_it_opens() -> None:
    from atom.asgi import application

    socket = WebsocketCommunicator(application, "/ws/nowhere", headers=[(b"host", b"testserver")])
    assert asyncio.run(socket.connect(timeout=5)) == (False, 4404)


@contextmanager
def as_if_alone(subtests: pytest.Subtests, name: str) -> Iterator[None]:
    """A test of its own but for the rows that it begins with, which take longer to make than most of them: it leaves none behind."""
    with subtests.test(name), transaction.atomic():
        cache.clear()
        yield
        transaction.set_rollback(True)


@pytest.mark.parametrize("who", ["charlie", "vera", "nobody"])
def test_nobody_sees_what_is_not_theirs(acme: SimpleNamespace, who: str, subtests: pytest.Subtests) -> None:
    for name in WALK:
        with as_if_alone(subtests, name):
            sees_what_is_theirs(acme, who, name)


def sees_what_is_theirs(acme: SimpleNamespace, who: str, name: str) -> None:
    client = Client(raise_request_exception=False)
    if who != "nobody":
        client.force_login(getattr(acme.cast, who))
    method, *expected = WALK[name]
    want = expected[["charlie", "vera", "nobody"].index(who)]
    path = address(routes()[name], acme)
    reply = (
        client.generic("POST", path, b"{}", "application/json")
        if name.startswith("api-") and method == "post"
        else getattr(client, method)(path, form_of(name, acme))
    )
    if want == SIGN_IN:
        assert reply.status_code == 302
        assert reply["Location"].startswith("/sign-in")
    else:
        assert reply.status_code == want, reply.getvalue()[:500]
    text = reply.getvalue().decode()
    if who != "vera":
        for secret in (str(acme.job.id), "acme-github", acme.entity.name, acme.endpoint.url):
            assert secret not in text.replace(path, "")
    with across_tenants("looking after the walk"):
        acme.job.refresh_from_db()
        assert (acme.job.status, acme.job.control) == ("pending", "none")


def test_tokens_are_on_no_page(acme: SimpleNamespace, subtests: pytest.Subtests) -> None:
    for name in (name for name, (method, *_) in WALK.items() if method == "get"):
        with as_if_alone(subtests, name):
            client = Client(raise_request_exception=False)
            client.force_login(acme.cast.alice)
            text = client.get(address(routes()[name], acme)).getvalue().decode()
            assert "secret-access-token" not in text
            assert "secret-refresh-token" not in text
            assert "whsec_" not in text


def test_every_change_needs_a_csrf_token(acme: SimpleNamespace, subtests: pytest.Subtests) -> None:
    for name in (name for name, (method, *_) in WALK.items() if method == "post"):
        with as_if_alone(subtests, name):
            client = Client(enforce_csrf_checks=True, raise_request_exception=False)
            client.force_login(acme.cast.alice)
            reply = client.post(address(routes()[name], acme), form_of(name, acme))
            assert reply.status_code == 403
            with across_tenants("looking after the walk"):
                acme.job.refresh_from_db()
                assert acme.job.control == "none"


@pytest.mark.parametrize("htmx", [False, True])
def test_every_form_says_which_workspace_its_page_is_of(
    acme: SimpleNamespace, htmx: bool, subtests: pytest.Subtests
) -> None:
    headers = {"HX-Request": "true"} if htmx else {}
    # What asks a provider, or leads to one, is tried where there is a stand-in.
    for name in WALK.keys() - {"connection-parts", "connect-start"}:
        with as_if_alone(subtests, name):
            client = Client(raise_request_exception=False)
            client.force_login(acme.cast.alice)
            page = client.get(address(routes()[name], acme), form_of(name, acme), headers=headers).getvalue().decode()
            for form in re.findall(r"(?s)<form [^>]*\bmethod=\"post\".*?</form>", page):
                assert f'name="workspace" value="{acme.cast.acme.id}"' in form, form
                assert 'name="csrfmiddlewaretoken"' in form, form


@pytest.mark.parametrize("name", ["appearance", "change-password", "sign-out", "switch-tenant"])
def test_what_is_of_no_workspace_is_done_from_a_page_of_any(acme: SimpleNamespace, name: str) -> None:
    client = Client()
    client.force_login(acme.cast.alice)
    form = form_of(name, acme) | {"workspace": str(acme.cast.globex.id)}
    assert client.post(address(routes()[name], acme), form).status_code == (400 if name == "change-password" else 302)


def test_nothing_is_done_for_a_page_of_a_workspace_that_another_tab_has_left(acme: SimpleNamespace) -> None:
    with across_tenants("the walk's second membership"):
        Membership.objects.create(tenant=acme.cast.globex, user=acme.cast.alice, role=Role.OWNER)
    client = Client(raise_request_exception=False)
    client.force_login(acme.cast.alice)
    globex = str(acme.cast.globex.id)
    refused, read_only = set(), set()
    for name, route in routes().items():
        if name.startswith("api-") or name in {"sign-in", *OF_NO_WORKSPACE}:
            continue
        path, form = address(route, acme), form_of(name, acme) | {"workspace": globex}
        reply = client.post(path, form)
        if reply.status_code == 405:
            read_only.add(name)
            reply = client.get(path, headers={"HX-Request": "true", "X-Workspace": globex})
        else:
            refused.add(name)
            assert client.post(path, form, headers={"HX-Request": "true"})["X-Fragments"] == "1", name
        assert reply.status_code == 409, name
        words = "This page is of another workspace, Globex, and this browser is in Acme by now. Nothing was done."
        assert words in reply.content.decode(), name
    assert {"settings", "settings-members", "settings-keys", "webhooks", "connect-start", "connect-token"} <= refused
    assert {"jobs", "live", "queued"} <= read_only
    with across_tenants("looking after the walk"):
        acme.job.refresh_from_db()
        assert (acme.job.status, acme.job.control) == ("pending", "none")


def test_the_api_answers_errors_in_one_shape(acme: SimpleNamespace, subtests: pytest.Subtests) -> None:
    for name in (name for name in WALK if name.startswith("api-") and name != "api-schema"):
        with as_if_alone(subtests, name):
            method, *_ = WALK[name]
            reply = getattr(Client(), method)(address(routes()[name], acme))
            body = reply.json()
            assert body["type"] == "client_error"
            assert body["errors"][0]["code"] == "not_authenticated"
            assert reply.status_code == 401


def test_the_admin_is_for_staff_only(acme: SimpleNamespace) -> None:
    for user in (acme.cast.alice, acme.cast.charlie):
        client = Client()
        client.force_login(user)
        for path in (
            "/admin/",
            "/admin/historical_sync/historicalsyncjob/",
            f"/admin/integrations/connection/{acme.connection.id}/change/",
        ):
            reply = client.get(path)
            assert reply.status_code == 302
            assert reply["Location"].startswith("/admin/login/")


def socket_to(
    route: str, acme: SimpleNamespace, user: Any = None, headers: Any = (), query: str = ""
) -> WebsocketCommunicator:
    from atom.asgi import application

    sent = [(b"origin", b"http://testserver"), (b"host", b"testserver"), *headers]
    if user is not None:
        client = Client()
        client.force_login(user)
        cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
        sent.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    return WebsocketCommunicator(application, f"{address(route, acme)}?{query}", headers=sent)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("route", sorted(SOCKETS))
@pytest.mark.parametrize("who", ["alice", "vera", "charlie", "nobody", "elsewhere"])
def test_sockets_refuse_strangers_before_they_open(live_cast: SimpleNamespace, route: str, who: str) -> None:
    acme = one_of_everything(live_cast.acme)
    user = getattr(live_cast, who, None) if who != "elsewhere" else live_cast.alice
    headers = [(b"origin", b"https://evil.example")] if who == "elsewhere" else []

    async def opens(communicator: WebsocketCommunicator) -> bool:
        connected, _ = await communicator.connect(timeout=5)
        if connected:
            await communicator.disconnect()
        return bool(connected)

    communicator = socket_to(route, acme, user)
    if headers:
        communicator.scope["headers"] = [h for h in communicator.scope["headers"] if h[0] != b"origin"] + headers
    allowed = who in ("alice", "vera") or (who == "charlie" and route in TENANT_WIDE)
    assert asyncio.run(opens(communicator)) is allowed


@pytest.mark.django_db(transaction=True)
def test_a_program_opens_a_socket_with_its_key(live_cast: SimpleNamespace) -> None:
    import asyncio

    acme = one_of_everything(live_cast.acme)
    with tenant_scope(live_cast.acme.id):
        _, key = ApiKey.objects.create_key(tenant=live_cast.acme, role="viewer", name="report")

    async def first_message() -> Any:
        communicator = socket_to(
            "ws/historical-sync/<str:job_id>", acme, headers=[(b"authorization", f"Api-Key {key}".encode())]
        )
        assert (await communicator.connect(timeout=5))[0]
        message = await communicator.receive_json_from(timeout=5)
        await communicator.disconnect()
        return message

    message = asyncio.run(first_message())
    assert message["type"] == "snapshot"
    assert message["job"]["id"] == str(acme.job.id)
    assert message["job"]["can"] == {"cancel": False, "pause": False, "resume": False}
