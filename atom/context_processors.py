"""What every page's frame shows."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from atom.access import Right


def tenant(request: HttpRequest) -> dict[str, Any]:
    actor = getattr(request, "actor", None)
    return {"actor": actor, "may": {right.value: actor.may(right) for right in Right} if actor else {}}
