"""A connector of Airbyte's CDK for the mock API, as Airbyte runs one: messages of its protocol, a line each, on standard output.

python airbyte_connector.py ROOT RECORDS WINDOWS
"""

import json
import logging
import sys
import tempfile

from airbyte_cdk.entrypoint import launch
from airbyte_cdk.models import ConnectorSpecification, SyncMode
from airbyte_cdk.sources.concurrent_source.concurrent_source import ConcurrentSource
from airbyte_cdk.sources.concurrent_source.concurrent_source_adapter import ConcurrentSourceAdapter
from airbyte_cdk.sources.message import InMemoryMessageRepository
from airbyte_cdk.sources.streams.concurrent.adapters import StreamFacade
from airbyte_cdk.sources.streams.concurrent.cursor import FinalStateCursor
from airbyte_cdk.sources.streams.http.http import HttpStream

root, records, windows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pages = -(-records // 100)
log = logging.getLogger("airbyte")


class Issues(HttpStream):
    name = "issues"
    url_base = root + "/"
    primary_key = "id"
    cursor_field = "updated_at"

    def path(self, **_):
        return "rows"

    def stream_slices(self, **_):
        for n in range(windows):
            yield {"first": 1 + n * pages // windows, "last": (n + 1) * pages // windows}

    def request_params(self, stream_state, stream_slice=None, next_page_token=None):
        return {"per_page": 100, "page": (next_page_token or stream_slice)["first"], "last": stream_slice["last"]}

    def next_page_token(self, response):
        asked = dict(part.split("=") for part in response.request.url.partition("?")[2].split("&"))
        page, last = int(asked["page"]), int(asked["last"])
        return {"first": page + 1} if page < last else None

    def parse_response(self, response, **_):
        yield from response.json()

    def get_json_schema(self):
        return {"type": "object", "additionalProperties": True, "properties": {}}


class Source(ConcurrentSourceAdapter):
    message_repository = InMemoryMessageRepository()

    def __init__(self):
        super().__init__(ConcurrentSource.create(max(windows, 2), 1, log, self._slice_logger, self.message_repository))

    def check_connection(self, logger, config):
        return True, None

    def spec(self, logger):
        return ConnectorSpecification(connectionSpecification={"type": "object", "properties": {}})

    def streams(self, config):
        if windows == 1:
            return [Issues()]
        cursor = FinalStateCursor("issues", None, self.message_repository)
        return [StreamFacade.create_from_stream(Issues(), self, log, {}, cursor)]


with tempfile.TemporaryDirectory() as folder:
    catalog = {
        "streams": [
            {
                "stream": {"name": "issues", "json_schema": {}, "supported_sync_modes": [SyncMode.full_refresh.value]},
                "sync_mode": "full_refresh",
                "destination_sync_mode": "append_dedup",
                "primary_key": [["id"]],
            }
        ]
    }
    for name, content in (("config", {}), ("catalog", catalog)):
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(content, file)
    launch(Source(), ["read", "--config", f"{folder}/config.json", "--catalog", f"{folder}/catalog.json"])
