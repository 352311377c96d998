"""What every page's frame shows."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from atom.access import Right
from atom.views import APPEARANCE, APPEARANCES


def appearance(request: HttpRequest) -> dict[str, Any]:
    """light or dark, where somebody chose; "" follows the system."""
    chosen = request.COOKIES.get(APPEARANCE, "")
    return {"appearance": chosen if chosen in APPEARANCES else "", "appearances": APPEARANCES}


def tenant(request: HttpRequest) -> dict[str, Any]:
    actor = getattr(request, "actor", None)
    if actor is None:
        return {"actor": None, "may": {}}
    return {
        "actor": actor,
        "may": {right.value: actor.may(right) for right in Right},
        "tenants": actor.tenants,
    }
