"""PostgreSQL types that Django has no field for."""

from __future__ import annotations

from typing import Any

from django.db import models
from psycopg.types.multirange import TimestamptzMultirange


class TimestamptzMultirangeField(models.Field):  # type: ignore[type-arg]
    """A set of half-open spans of time. Python: psycopg's TimestamptzMultirange."""

    def db_type(self, connection: Any) -> str:
        return "tstzmultirange"

    def get_prep_value(self, value: Any) -> Any:
        if value is None or isinstance(value, TimestamptzMultirange):
            return value
        return TimestamptzMultirange(value)


class JsonTextField(models.JSONField):
    """PostgreSQL's json: a document kept to the letter. Cheaper to write than jsonb, for what is not searched in the database."""

    def db_type(self, connection: Any) -> str:
        return "json"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return value  # psycopg decodes json; Django takes over for jsonb only
