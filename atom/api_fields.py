"""The API's bodies and their fields, where the framework has them otherwise."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

MOST_NAMED = 20  # unknown fields of a body; a megabyte has room for a hundred thousand


class BoundedList(serializers.ListField):
    """A list of at most `max_length` items. The framework's own looks at all that came, a minute for a megabyte, before it counts them."""

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and self.max_length is not None and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        return super().to_internal_value(data)


class Body(serializers.Serializer):
    """What a request brings. A name that is none of its fields is refused: with a slip of the pen something else would be done."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := [name for name in data if name not in self.fields]):
            raise serializers.ValidationError(
                {
                    str(name)[:100].encode(errors="replace").decode(): ["There is no such field."]
                    for name in unknown[:MOST_NAMED]
                },
                code="invalid",
            )
        return super().to_internal_value(data)
