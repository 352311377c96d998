"""The API's published schema: every operation with the answers that it may give, refusals included."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

# status: why. Whatever the operation, and for operations that change something.
REFUSALS = {"401": "No session or key.", "403": "The role or the plan does not allow it.", "404": "There is none, or it is another tenant's.", "406": "Answers are JSON.", "429": "Too much; Retry-After says when.", "503": "The database is away; Retry-After says when."}  # fmt: skip
RETRY_AFTER = {
    "description": "Seconds until it may be tried again.",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
}
REFUSED_CHANGES = {"400": "The input is off.", "409": "Not in this state.", "413": "The body is too large.", "415": "The body is no JSON."}  # fmt: skip


class ErrorSerializer(serializers.Serializer):  # type: ignore[type-arg]
    code = serializers.CharField(help_text="Stable and machine-readable.")
    detail = serializers.CharField(help_text="For people.")
    attr = serializers.CharField(allow_null=True, help_text="The field at fault, if one is.")


class ErrorsSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """The one shape of every refusal."""

    type = serializers.ChoiceField(("client_error", "validation_error", "server_error"))
    errors = ErrorSerializer(many=True)  # type: ignore[assignment]


class ApiSchema(AutoSchema):
    """Adds the refusals to what an operation says of its success."""

    def _get_response_bodies(self, direction: str = "response") -> Any:
        bodies = dict(super()._get_response_bodies(direction))  # type: ignore[arg-type]
        refusals = REFUSALS | (REFUSED_CHANGES if self.method == "POST" else {})
        if self._is_list_view() or any(one.get("in") == "query" for one in self._get_parameters()):
            refusals["400"] = REFUSED_CHANGES["400"]
        for status, why in refusals.items():
            body = self._get_response_for_code(ErrorsSerializer, status)  # type: ignore[no-untyped-call]
            bodies.setdefault(status, {**body, "description": why})
        for status in ("429", "503"):
            bodies[status]["headers"] = {"Retry-After": RETRY_AFTER}
        return dict(sorted(bodies.items()))

    def _map_serializer_field(self, field: Any, direction: Any, bypass_extensions: bool = False) -> Any:
        schema = super()._map_serializer_field(field, direction, bypass_extensions)  # type: ignore[no-untyped-call]
        # OpenAPI 3.0: `nullable` takes nothing from what is referred to beside it, so null has to be a choice.
        if schema and schema.get("nullable") and "allOf" in schema:
            schema["oneOf"] = [*schema.pop("allOf"), {"enum": [None]}]
        return schema
