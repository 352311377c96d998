"""Errors that people and programs see: one class, one shape (drf-standardized-errors'), stable codes."""

from __future__ import annotations

import math
from typing import Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError, ValidationError
from rest_framework.response import Response


class Refused(Exception):
    """An action was refused; nothing was changed.

    code: stable, see the API contract. detail: for people. attr: the input field at fault, if one is.
    retry_after: seconds, for what will be possible later.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status_code: int = 409,
        attr: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status_code = status_code
        self.attr = attr
        self.retry_after = retry_after


class BodyTooLarge(APIException):
    """More than the settings allow to be sent at once."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = "The body is too large."


class InvalidInput(Refused):
    """The input is off; `attr` names the field."""

    def __init__(self, code: str, detail: str, attr: str) -> None:
        super().__init__(code, detail, status_code=status.HTTP_400_BAD_REQUEST, attr=attr)


def exception_handler(error: Exception, context: Any) -> Response | None:
    """DRF's hook: Refused becomes an API error of its own status and code; all else is the library's."""
    # The library imports DRF's views, which import this module by way of the settings.
    from drf_standardized_errors.handler import exception_handler as standard_handler

    if isinstance(error, RequestDataTooBig):
        return standard_handler(BodyTooLarge(), context)
    if isinstance(error, SuspiciousOperation):  # more parameters than anybody needs, and the like
        return standard_handler(ParseError(str(error)), context)
    if isinstance(error, Refused):
        translated: APIException
        if error.attr is not None and error.status_code == 400:
            translated = ValidationError({error.attr: [error.detail]}, code=error.code)
        else:
            translated = APIException(error.detail, error.code)
            translated.status_code = error.status_code
            if error.retry_after is not None:
                translated.wait = math.ceil(error.retry_after)  # type: ignore[attr-defined]
        response = standard_handler(translated, context)
        if response is not None and error.attr is not None:
            # The library names fields of validation errors only; a plan's limit has its field as well.
            response.data["errors"][0]["attr"] = error.attr
        return response
    return standard_handler(error, context)
