"""Pages of the REST API: `count, next, previous, results`."""

from __future__ import annotations

import re
from typing import Any

from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request

from atom.errors import InvalidInput


class Pages(PageNumberPagination):
    page_size = 25
    page_size_query_param = "page_size"
    max_page_size = 100

    def get_page_size(self, request: Request) -> int | None:
        """More than there may be is as many as there may be; what is no size is refused, not taken for the default."""
        given = request.query_params.get(self.page_size_query_param)
        if given is not None and not re.fullmatch(r"0*[1-9][0-9]{0,8}", given):
            raise InvalidInput("invalid", "Must be a whole number from 1.", self.page_size_query_param)
        return super().get_page_size(request)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters = super().get_schema_operation_parameters(view)
        for one in parameters:
            if one["name"] == self.page_size_query_param:
                one["schema"] = {"type": "integer", "minimum": 1, "default": self.page_size}
                one["description"] = f"No page has more than {self.max_page_size}."
        return parameters
