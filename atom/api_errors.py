"""Errors as the API tells them: one shape, drf-standardized-errors'."""

from __future__ import annotations

import math
from typing import Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError, ValidationError
from rest_framework.response import Response

from atom.db import away
from atom.errors import UNAVAILABLE, UNAVAILABLE_WORDS, Refused


class BodyTooLarge(APIException):
    """More than the settings allow to be sent at once."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = "The body is too large."


class Unavailable(APIException):
    """The database is away."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_code = UNAVAILABLE
    default_detail = UNAVAILABLE_WORDS
    wait = away.AGAIN_AFTER


def exception_handler(error: Exception, context: Any) -> Response | None:
    """DRF's hook: Refused becomes an API error of its own status and code; all else is the library's."""
    # The library imports DRF's views, which import this module by way of the settings.
    from drf_standardized_errors.handler import exception_handler as standard_handler

    if away.why_away(error):
        unavailable = Unavailable()
        unavailable.__cause__ = error  # for the log
        return standard_handler(unavailable, context)
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
