"""What every page's frame shows."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.template.backends.utils import csrf_input
from django.utils.functional import SimpleLazyObject
from django.utils.html import format_html

from atom.access import Right
from atom.views import APPEARANCE, APPEARANCES


def csrf(request: HttpRequest) -> dict[str, Any]:
    """The hidden fields of forms: the token, and the workspace that the page is of (`atom.views.workspace_of_page`).

    Made once a page: with a new token in each form, random numbers cost more than the page.
    """
    actor = getattr(request, "actor", None)
    if actor is None:
        return {"csrf_input": SimpleLazyObject(lambda: csrf_input(request))}
    workspace = format_html('<input type="hidden" name="workspace" value="{}">', actor.tenant.id)
    return {"csrf_input": SimpleLazyObject(lambda: csrf_input(request) + workspace)}


def appearance(request: HttpRequest) -> dict[str, Any]:
    """light or dark, where somebody chose; "" follows the system."""
    chosen = request.COOKIES.get(APPEARANCE, "")
    return {"appearance": chosen if chosen in APPEARANCES else "", "appearances": APPEARANCES}


def passwords(request: HttpRequest) -> dict[str, Any]:
    """For the admin, which has no actor."""
    return {"passwords": settings.PASSWORDS}


def tenant(request: HttpRequest) -> dict[str, Any]:
    actor = getattr(request, "actor", None)
    if actor is None:
        return {"actor": None, "may": {}}
    return {
        "actor": actor,
        "may": {right.value: actor.may(right) for right in Right},
        "tenants": actor.tenants,
        "passwords": settings.PASSWORDS,
        "began": request.began.isoformat(),  # type: ignore[attr-defined] # of `TenantMiddleware`
    }
