"""Fields of the API's bodies that the framework has otherwise."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers


class BoundedList(serializers.ListField):
    """A list of at most `max_length` items. The framework's own looks at all that came, a minute for a megabyte, before it counts them."""

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and self.max_length is not None and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        return super().to_internal_value(data)
