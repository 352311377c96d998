"""manage.py provider_check: runs a provider's streams over a small window and reports what it saw."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from atom.errors import InvalidInput
from integrations import gateway
from integrations.connect import checked_answers
from integrations.errors import ProviderError, RecordRejected
from integrations.http import Api, make_client
from integrations.providers import PROVIDERS
from integrations.providers.base import WHOLE, Context, Partition, Provider, Stream, Window

DAYS = 30
MOST_PAGES = 2


class Command(BaseCommand):
    help = "Runs a provider's streams over the last days and reports what it saw. Stores nothing. Exit 1 when a stream fails."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("provider", metavar="PROVIDER", help=", ".join(PROVIDERS))
        parser.add_argument(
            "--base-url", default="", metavar="URL", help="API root of a self-hosted provider or a stand-in"
        )
        parser.add_argument("--token", default="", help="default: the environment's ATOM_CHECK_TOKEN")
        parser.add_argument(
            "--fact", action="append", default=[], metavar="NAME=VALUE", help="what the provider asks before connecting"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        provider = PROVIDERS.get(options["provider"])
        if provider is None:
            raise CommandError(
                f"There is no provider {options['provider']!r}; there are {', '.join(PROVIDERS)}.", returncode=2
            )
        token = options["token"] or os.environ.get("ATOM_CHECK_TOKEN", "")
        if not token:
            raise CommandError("Give a token with --token or ATOM_CHECK_TOKEN.", returncode=2)
        facts = dict(pair.partition("=")[::2] for pair in options["fact"])
        try:
            root = options["base_url"].rstrip("/")
            if not root:
                facts = checked_answers(provider, facts)
                root = provider.api_root(provider.api_url, facts)
        except InvalidInput as error:
            raise CommandError(f"{error.attr}: {error.detail} (--fact {error.attr}=...)", returncode=2) from None
        if asyncio.run(self._check(provider, root, token, facts)):
            raise CommandError("At least one stream failed.")

    async def _check(self, provider: Provider, root: str, token: str, facts: Mapping[str, Any]) -> int:
        failed = 0
        async with make_client(allow_private=True) as client:
            api = Api(provider, root, client, token, facts=facts, namespace="")
            try:
                account = await provider.identify(api)
                api.facts = {**facts, **account.facts}
                api.namespace = gateway.namespace(provider, "", account.external_id)
                partitions = await provider.partitions(api) if provider.partitions else []
            except ProviderError as error:
                raise CommandError(f"{provider.name}: {error.code}: {error}") from None
            self.stdout.write(
                f"{provider.name}: {account.label} ({account.external_id}), scopes {account.scopes}, {len(partitions)} partitions"
            )
            now = datetime.now(UTC)
            window = Window(now - timedelta(days=DAYS), now - provider.settle)
            for stream in provider.streams:
                partition = partitions[0] if stream.partitioned and partitions else WHOLE
                if stream.partitioned and not partitions:
                    self.stdout.write(f"  {stream.name}: nothing to list it by")
                    continue
                failed += not await self._stream(api, stream, partition, window)
        return failed

    async def _stream(self, api: Api, stream: Stream, partition: Partition, window: Window) -> bool:
        context = Context(api.namespace, partition)
        records = entities = relationships = rejected = pages = 0
        cursor = None
        try:
            counted = await stream.count(api, partition, window) if stream.count else None
            while pages < MOST_PAGES:
                page = await stream.fetch(api, partition, window, cursor)
                pages += 1
                records += len(page.records)
                rejected += len(page.rejected)
                for record in page.records:
                    try:
                        graph = stream.extract(record.payload, context)
                    except (RecordRejected, KeyError, TypeError, ValueError, AttributeError, IndexError):
                        rejected += 1
                        continue
                    entities += len(graph.entities)
                    relationships += len(graph.relationships)
                cursor = page.next_cursor
                if cursor is None:
                    break
        except ProviderError as error:
            self.stdout.write(f"  {stream.name}: FAILED {error.code}: {error}")
            return False
        more = "" if cursor is None else ", more to come"
        expected = "" if counted is None else f" of {counted.records}"
        where = f" in {partition.label}" if partition.label else ""
        self.stdout.write(
            f"  {stream.name}{where}: {records}{expected} records in {pages} pages{more}, "
            f"{entities} entities, {relationships} relationships, {rejected} rejected"
        )
        return True
