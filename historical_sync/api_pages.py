"""Pages of the REST API that go on where the one before ended, and what a query asks for besides."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from atom.errors import InvalidInput

PAGE = 50
MOST = 200


def asked(name: str, description: str, of: Any = OpenApiTypes.STR) -> OpenApiParameter:
    return OpenApiParameter(name, of, OpenApiParameter.QUERY, description=description)


PAGING = [
    asked("cursor", "`next` of the page before."),
    asked("page_size", "How many results.", {"type": "integer", "minimum": 1, "maximum": MOST, "default": PAGE}),
]


class PageSerializer(serializers.Serializer):
    """What a list answers; each adds its `results`."""

    next = serializers.CharField(allow_null=True, help_text="Goes into `cursor` for the next page; null at the end.")


def page_of(results: list[Any], rows: Sequence[Any], size: int, where: Callable[[Any], tuple[str, ...]]) -> Response:
    """Of `rows`, one more than the page has where there is another; `where` a row stands, for that one to begin behind."""
    more = len(rows) > size
    return Response({"next": mark(*where(rows[size - 1])) if more else None, "results": results[:size]})


def mark(*place: str) -> str:
    """The `next` of a page that ends there."""
    return base64.urlsafe_b64encode("\0".join(place).encode()).decode()


def place(request: Request, *parts: Callable[[str], Any]) -> tuple[Any, ...]:
    """The place that a page ended at, read by `parts`; () for the first page. Raises InvalidInput."""
    given = request.query_params.get("cursor", "")
    if not given:
        return ()
    try:
        found = base64.urlsafe_b64decode(given.encode()).decode().split("\0")
        return tuple(read(part) for read, part in zip(parts, found, strict=True))
    except (ValueError, binascii.Error):
        raise InvalidInput("invalid", "This is not a `next` of this list.", "cursor") from None


def text(request: Request, name: str, most: int) -> str:
    given = str(request.query_params.get(name, "")).strip()
    if len(given) > most or not given.isprintable():
        raise InvalidInput("invalid", f"Must be at most {most} printable characters.", name)
    return given


def exact(request: Request, name: str, most: int) -> str | None:
    """As it was given, spaces included; None where it was not, which an empty one is not: that is the id of nothing."""
    given = request.query_params.get(name)
    if given is not None and len(given) > most:
        raise InvalidInput("invalid", f"Must be at most {most} characters.", name)
    return given


def flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "")
    if given not in ("", "true", "false"):
        raise InvalidInput("invalid", "Must be true or false.", name)
    return given == "true"


def uuid(request: Request, name: str) -> UUID | None:
    given = request.query_params.get(name, "")
    try:
        return UUID(given) if given else None
    except ValueError:
        raise InvalidInput("invalid", "Must be an id.", name) from None


def page_size(request: Request) -> int:
    given = request.query_params.get("page_size", str(PAGE))
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= MOST):
        raise InvalidInput("invalid", f"Must be between 1 and {MOST}.", "page_size")
    return int(given)
