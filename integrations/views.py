"""Connecting by OAuth or token, and disconnecting."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from atom.access import Right
from atom.errors import Refused
from atom.middleware import actor_of
from atom.views import refusal, tenant_required
from integrations import gateway, oauth
from integrations.connect import (
    check_room,
    checked_answers,
    connect_with_token,
    connections_of,
    finish_oauth,
    still_lost,
)
from integrations.disconnecting import disconnect
from integrations.errors import ProviderError, ReauthRequired
from integrations.models import ConnectionStatus
from integrations.narrowing import listed, narrow
from integrations.providers import PROVIDERS
from integrations.providers.base import Provider

log = logging.getLogger(__name__)

OFFER = ("start", "end", "streams", "prompt", "full")  # fields of the offer to import


def _provider(slug: str) -> Provider:
    provider = PROVIDERS.get(slug)
    if provider is None:
        raise Http404
    return provider


@require_POST
@tenant_required(Right.CONNECT)
def connect_start(request: HttpRequest, slug: str) -> HttpResponse:
    """Sends the browser to the provider's page of consent."""
    provider = _provider(slug)
    if provider.oauth is None or gateway.configured(provider) is None:
        names, callback = " and ".join(gateway.needed_variables(provider)), oauth.redirect_uri(request, provider)
        what = f"register an app with the callback {callback} and set {names}"
        words = f"The operator of this deployment has to {what}, as docs/oauth-apps.md says."
        return refusal(request, f"{provider.name} is not configured", words, 409)
    tenant = actor_of(request).tenant
    try:
        check_room(tenant, provider)
    except Refused as error:
        return refusal(request, "Not connected", error.detail, error.status_code)
    # Who connects again answered when they connected; who comes from the card to connect has not been asked yet.
    mine = connections_of(tenant).filter(provider_slug=slug)
    lost = next((row for row in mine if str(row.id) == request.POST.get("connection")), None)
    given = lost.facts if lost else request.POST
    was_asked = any(question.name in given for question in provider.asks)
    try:
        answers = checked_answers(provider, given)
    except Refused as error:
        return _ask(request, provider, {error.attr or "": error.detail} if was_asked else {})
    config = gateway.configured(provider, answers)
    assert config is not None
    if provider.asks and not was_asked and not config.sandbox:
        return _ask(request, provider, {})
    # Not a redirect: browsers apply a form's content security policy (form-action) to every redirect that follows its answer, and a
    # provider's page of consent may lead on to wherever its users sign in.
    to = oauth.begin(request, provider, config, answers, str(lost.id) if lost else "")
    return render(request, "integrations/leaving.html", {"provider": provider, "to": to})


def _ask(request: HttpRequest, provider: Provider, errors: Mapping[str, str]) -> HttpResponse:
    context = {"provider": provider, "questions": _questions(provider, request.POST), "errors": errors}
    return render(request, "integrations/questions.html", context, status=400 if errors else 200)


def _questions(provider: Provider, given: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the provider asks before connecting, each with the answer so far."""
    return [
        {"asked": question, "answer": given.get(question.name, question.default or "")[:200]}
        for question in provider.asks
    ]


@require_GET
@tenant_required(Right.CONNECT)
def connect_callback(request: HttpRequest, slug: str) -> HttpResponse:
    """The browser's return from the provider. What does not belong to a trip of this session is refused, storing nothing."""
    provider = _provider(slug)
    try:
        trip = oauth.finish(request, provider)
    except oauth.BadState:
        words = f"This return from {provider.name} does not belong to a sign-in that you began here, or was used already. Connect again."
        return refusal(request, "Not connected", words, 400)
    if request.GET.get("error"):
        messages.error(request, f"{provider.name} was not connected: access was declined.")
        return redirect("integrations")
    code = request.GET.get("code", "")
    if not code or len(code) > 4096:
        return refusal(request, "Not connected", f"{provider.name} sent no usable code. Connect again.", 400)
    actor = actor_of(request)
    try:
        connection, _ = finish_oauth(
            actor,
            provider,
            code=code,
            verifier=trip.verifier,
            redirect_uri=trip.redirect_uri,
            answers=trip.answers,
            reconnects=trip.reconnects,
        )
    except Refused as error:
        return refusal(request, "Not connected", error.detail, error.status_code)
    except ProviderError as error:
        log.warning("connecting %s failed: %s", provider.slug, error)
        # A code that the provider does not accept is the caller's fault; all else is the provider's or the deployment's.
        return refusal(request, "Not connected", str(error), 400 if isinstance(error, ReauthRequired) else 502)
    messages.success(request, f"{connection} is connected.")
    if missed := still_lost(actor.tenant, trip.reconnects, connection.external_account_id):
        words = f"You signed in as {connection.account_label}; {missed.account_label} still needs to be reconnected."
        messages.error(request, words)
    return redirect(f"{reverse('integrations')}?connected={connection.id}")


@sensitive_post_parameters("token")
@require_http_methods(["GET", "POST"])
@tenant_required(Right.CONNECT)
def connect_token(request: HttpRequest, slug: str) -> HttpResponse:
    """A connection from a pasted token, for providers that have such tokens."""
    provider = _provider(slug)
    if provider.token_help is None:
        raise Http404
    config = gateway.configured(provider)
    context: dict[str, Any] = {
        "provider": provider,
        "sandbox": config is not None and config.sandbox,
        "configured": config is not None,
        "variables": gateway.needed_variables(provider),
        "callback": oauth.redirect_uri(request, provider),
        "errors": {},
        "base_url": "",
        "label": "",
        "questions": _questions(provider, request.POST if request.method == "POST" else {}),
    }
    if request.method == "POST":
        base_url, label = request.POST.get("base_url", ""), request.POST.get("label", "").strip()[:200]
        context |= {"base_url": base_url[:500], "label": label}
        try:
            connection = connect_with_token(
                actor_of(request),
                provider,
                request.POST.get("token", ""),
                base_url=base_url,
                label=label,
                facts={asked.name: request.POST.get(asked.name, "") for asked in provider.asks},
            )
        except Refused as error:
            context["errors"] = {error.attr or "": error.detail}
            status = 200 if getattr(request, "htmx", False) else error.status_code
            return render(request, _token_template(request), context, status=status)
        target = f"{reverse('integrations')}?connected={connection.id}"
        messages.success(request, f"{connection} is connected.")
        if getattr(request, "htmx", False):
            response = HttpResponse(status=204)
            response["HX-Redirect"] = target
            return response
        return redirect(target)
    return render(request, _token_template(request), context)


def _token_template(request: HttpRequest) -> str:
    return "integrations/_token.html" if getattr(request, "htmx", False) else "integrations/token.html"


@require_http_methods(["GET", "POST"])
@tenant_required(Right.CONNECT)
def choose_parts(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """Which repositories, channels or projects are imported (GET asks the provider); from the next import on (POST).

    `all`: every one, those to come as well; else `only`: their keys. A dialog for htmx, which goes on to the offer to import.
    Who comes from there brings along what was chosen there (`start`, `end`, `streams`, `prompt`), and finds it there again.
    """
    actor = actor_of(request)
    connection = get_object_or_404(connections_of(actor.tenant), id=connection_id)
    if connection.provider.partitions is None:
        raise Http404
    given = request.POST if request.method == "POST" else request.GET
    answers = [(name, value[:100]) for name in OFFER for value in given.getlist(name)[:50]]
    offer = f"{reverse('import', args=[connection.id])}?{urlencode(answers)}"
    context: dict[str, Any] = {
        "connection": connection,
        "parts": [],
        "left_out": [],
        "all": connection.only is None,
        "problem": "",
        "answers": answers,
        "offer": offer,
    }
    chosen = set(connection.only or [])
    try:
        if request.method == "POST":
            chosen = set(request.POST.getlist("only"))
            context["all"] = "all" in request.POST
            narrow(actor, connection, None if context["all"] else sorted(chosen))
            if getattr(request, "htmx", False):
                return render(request, "integrations/_parts_chosen.html", context)
            messages.success(request, "From the next import on, that is what comes in.")
            return redirect(offer if answers else "integrations")
        found = listed(connection)
        context["parts"] = [(part, context["all"] or part.key in chosen) for part in found.parts]
        context["left_out"] = found.left_out
    except Refused as error:
        context["problem"] = error.detail
        if request.method == "POST":
            with contextlib.suppress(Refused):
                context["parts"] = [(part, part.key in chosen) for part in listed(connection).parts]
    template = "integrations/_parts.html" if getattr(request, "htmx", False) else "integrations/parts.html"
    return render(request, template, context)


@require_http_methods(["GET", "POST"])
@tenant_required(Right.CONNECT)
def disconnect_connection(request: HttpRequest, connection_id: UUID) -> HttpResponse:
    """Asks whether to disconnect, saying what is kept (GET); does it (POST)."""
    actor = actor_of(request)
    connection = get_object_or_404(connections_of(actor.tenant), id=connection_id)
    if request.method == "GET":
        htmx = getattr(request, "htmx", False)
        return render(
            request,
            "integrations/_disconnect.html" if htmx else "integrations/disconnect.html",
            {"connection": connection},
        )
    delete_data = request.POST.get("delete_data") == "on"
    if connection.status != ConnectionStatus.DISCONNECTED or delete_data:
        if honoured := disconnect(actor, connection, delete_data=delete_data):
            messages.warning(request, f"{connection}: {honoured}.")
        kept = "What only it brought is being removed." if delete_data else "Its history stays."
        messages.success(request, f"{connection} is disconnected. {kept}")
    return redirect("integrations")
