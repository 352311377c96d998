"""Requests and responses, as little as the stand-ins need."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import orjson

MAX_BODY = 64 * 1024


@dataclass
class Request:
    """method, path below the provider's root; headers lower-case; base: "http://host/sandbox/<slug>"."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    base: str

    @cached_property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    @cached_property
    def json(self) -> Any:
        try:
            return orjson.loads(self.body)
        except ValueError:
            return None

    @property
    def token(self) -> str:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() in ("bearer", "token") else ""

    @property
    def media_type(self) -> str:
        """The body's type without its parameters, lower-case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def basic(self) -> tuple[str, str]:
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = (
                base64.b64decode(value).decode().partition(":") if scheme.lower() == "basic" else ("", "", "")
            )
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password


@dataclass
class Response:
    """body: bytes as they are, anything else as JSON; None is no body."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_headers(self, headers: Mapping[str, str]) -> Response:
        return Response(self.status, self.body, {**self.headers, **headers})

    def encoded(self) -> tuple[bytes, dict[str, str]]:
        if self.body is None:
            return b"", dict(self.headers)
        if isinstance(self.body, bytes):
            return self.body, dict(self.headers)
        return orjson.dumps(self.body), {"Content-Type": "application/json; charset=utf-8", **self.headers}


def html(page: str, status: int = 200, **headers: str) -> Response:
    return Response(status, page.encode(), {"Content-Type": "text/html; charset=utf-8", **headers})


def whole(value: str | None, default: int, low: int, high: int) -> int:
    """A query's whole number, kept between `low` and `high`; what is none is `default`."""
    try:
        return max(low, min(high, int(value or default)))
    except ValueError:
        return default
