"""The REST API of coverage: what of a connection's history is in, missing and failed, by stream and partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from atom.api_auth import TenantScoped, caller
from historical_sync import api_pages as pages
from historical_sync import coverage
from historical_sync.coverage import Failed, Held
from historical_sync.models import Coverage
from integrations.connect import connections_of
from integrations.models import Connection
from integrations.providers import PROVIDERS
from integrations.providers.base import Window

MOST_SPANS = 2_000  # of a page, beside those of its first part


class SpanSerializer(serializers.Serializer):
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(help_text="Exclusive.")


class FailedSpanSerializer(SpanSerializer):
    code = serializers.CharField(help_text="As a job's last_error has it.")
    message = serializers.CharField()


class CoverageSerializer(serializers.Serializer):
    """A stream in one of its partitions, within what was asked of it. Spans are oldest first."""

    stream = serializers.CharField()
    partition = serializers.CharField(help_text='"" where there are none, or where they could not be listed.')
    partition_label = serializers.CharField()
    covered = SpanSerializer(many=True, help_text="What is in.")
    missing = SpanSerializer(many=True, help_text="What is not.")
    failed = FailedSpanSerializer(many=True, help_text="What of that was tried, and why it is missing.")


class CoveragePageSerializer(pages.PageSerializer):
    """A page may be short without being the last."""

    results = CoverageSerializer(many=True)


class CoverageViewSet(TenantScoped, viewsets.GenericViewSet):
    """What of a connection's history is in, missing and failed."""

    serializer_class = CoverageSerializer
    # For the schema only; requests are answered from `coverage`.
    queryset = Coverage.objects.none()
    pagination_class = None
    filter_backends = ()

    @extend_schema(
        operation_id="get_connection_coverage",
        parameters=[
            OpenApiParameter("connection_id", OpenApiTypes.UUID, OpenApiParameter.PATH),
            pages.asked("stream", "Only this stream's."),
            pages.asked("missing", "true: only those of which something is missing.", OpenApiTypes.BOOL),
            *pages.PAGING,
        ],
        responses={200: CoveragePageSerializer},
    )
    def coverage(self, request: Request, connection_id: str) -> Response:
        connection, size = _connection(request, connection_id), pages.page_size(request)
        stream, lacking = pages.text(request, "stream", 60), pages.flag(request, "missing")
        order = {stream.name: number for number, stream in enumerate(connection.provider.streams)}

        def known(name: str) -> str:
            if name not in order:
                raise ValueError(name)
            return name

        after = pages.place(request, known, str, str)
        start = (order[after[0]], *after[1:]) if after else ()
        rest = [
            part
            for part in coverage.of_connection(connection)
            if (part.stream == stream or not stream)
            and (part.missing or not lacking)
            and (order[part.stream], part.partition_label, part.partition) > start
        ]
        results: list[dict[str, Any]] = []
        spans = 0
        for part in rest[:size]:
            row = _part_json(part)
            spans += sum(len(row[name]) for name in ("covered", "missing", "failed"))
            if results and spans > MOST_SPANS:
                break
            results.append(row)
        more = len(rest) > len(results)
        last = rest[len(results) - 1] if more else None
        mark = last and pages.mark(last.stream, last.partition_label, last.partition)
        return Response({"next": mark, "results": results})


def _connection(request: Request, connection_id: str) -> Connection:
    try:
        return connections_of(caller(request).tenant).get(id=UUID(connection_id), provider_slug__in=PROVIDERS)
    except (ValueError, Connection.DoesNotExist):
        raise Http404 from None


def _part_json(part: Held) -> dict[str, Any]:
    return {
        "stream": part.stream,
        "partition": part.partition,
        "partition_label": part.partition_label,
        "covered": [_span_json(window) for window in part.covered],
        "missing": [_span_json(window) for window in part.missing],
        "failed": [
            _span_json(failed.window) | {"code": failed.code, "message": failed.reason}
            for failed in _joined(part.failed)
        ],
    }


def _span_json(window: Window) -> dict[str, Any]:
    return {"since": window.since, "until": window.until}


def _joined(failures: Iterable[Failed]) -> list[Failed]:
    """Those of the same reason that touch as one, oldest first: a part is tried in hundreds of windows."""
    joined: list[Failed] = []
    for failed in sorted(failures, key=lambda one: (one.code, one.reason, one.window.since)):
        last = joined[-1] if joined else None
        if (
            last
            and (last.code, last.reason) == (failed.code, failed.reason)
            and failed.window.since <= last.window.until
        ):
            joined[-1] = replace(last, window=Window(last.window.since, max(last.window.until, failed.window.until)))
        else:
            joined.append(failed)
    return sorted(joined, key=lambda one: one.window.since)
