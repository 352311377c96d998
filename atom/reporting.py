"""What Django's page for who develops, and its reports of errors, show of a request."""

from __future__ import annotations

from types import FrameType
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter


class HidesSecrets(SafeExceptionReporterFilter):
    """Of a request that brings a secret (`sensitive_post_parameters`) no variable of any function, in debug mode as well: the secret goes
    through many hands, and Django's own filter knows of none in that mode."""

    def is_active(self, request: HttpRequest | None) -> bool:
        return _brings_a_secret(request) or super().is_active(request)

    def get_traceback_frame_variables(self, request: HttpRequest | None, tb_frame: FrameType) -> Any:
        if _brings_a_secret(request):
            return [(name, self.cleansed_substitute) for name in tb_frame.f_locals]
        return super().get_traceback_frame_variables(request, tb_frame)


def _brings_a_secret(request: HttpRequest | None) -> bool:
    return hasattr(request, "sensitive_post_parameters")
