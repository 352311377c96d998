"""manage.py provider_check: runs a provider's streams over a small window and reports what it saw.

Exit codes: 0 all is well, 1 a stream can't be read or something about it is wrong, 2 bad input, 3 the provider does not answer or
does not accept the token.
"""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from atom.errors import InvalidInput
from atom.words import in_a_terminal
from integrations import gateway
from integrations.checking import MOST_REASONS, PATIENCE, StreamReport, check_stream
from integrations.connect import checked_answers
from integrations.errors import Misconfigured, PartlyDenied, ProviderError
from integrations.health import missing_scopes
from integrations.http import Api, check_address, make_client
from integrations.management.commands.connect import facts_of
from integrations.providers import PROVIDERS
from integrations.providers.base import WHOLE, Partition, Provider, Stream, Window

DAYS = 30
MOST_DAYS = 3650
MOST_PARTITIONS = 5  # that are looked at for one with rows


class Command(BaseCommand):
    help = (
        "Runs a provider's streams over the last days and reports what it saw: rows, counts, window edges, what they become. "
        "Stores nothing. Exit 0: all is well, 1: a stream fails or is wrong, 2: bad input, 3: no access."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("provider", metavar="PROVIDER", help=", ".join(PROVIDERS))
        parser.add_argument(
            "--base-url", default="", metavar="URL", help="API root of a self-hosted provider or a stand-in"
        )
        parser.add_argument("--token", default="", help="default: the environment's ATOM_CHECK_TOKEN")
        parser.add_argument("--days", type=int, default=DAYS, metavar="N", help=f"how far back to look; default {DAYS}")
        parser.add_argument("--streams", default="", metavar="A,B", help="only these streams")
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
        facts: Mapping[str, str] = facts_of(options["fact"])
        try:
            root = options["base_url"].rstrip("/")
            if root:
                check_address(root)
            else:
                facts = checked_answers(provider, facts)
                root = provider.api_root(provider.api_url, facts)
        except Misconfigured as error:
            raise CommandError(f"--base-url: {error}", returncode=2) from None
        except InvalidInput as error:
            raise CommandError(f"{error.attr}: {error.detail} (--fact {error.attr}=...)", returncode=2) from None
        if not 1 <= options["days"] <= MOST_DAYS:
            raise CommandError(f"--days must be a number from 1 to {MOST_DAYS}.", returncode=2)
        named = [name.strip() for name in options["streams"].split(",") if name.strip()]
        known = [stream.name for stream in provider.streams]
        if unknown := [name for name in named if name not in known]:
            raise CommandError(
                f"{provider.name} has no stream {unknown[0]!r}; there are {', '.join(known)}.", returncode=2
            )
        streams = [stream for stream in provider.streams if not named or stream.name in named]
        if not asyncio.run(self._check(provider, streams, root, token, facts, options["days"])):
            raise CommandError("At least one stream failed.")

    async def _check(
        self,
        provider: Provider,
        streams: Sequence[Stream],
        root: str,
        token: str,
        facts: Mapping[str, Any],
        days: int,
    ) -> bool:
        """Whether all is well."""
        async with make_client(allow_private=True) as client:
            api = Api(provider, root, client, token, facts=facts, namespace="", longest_wait=PATIENCE)
            partitions: Sequence[Partition] = ()
            refusal = ""
            try:
                account = await provider.identify(api)
                api.facts = {**facts, **account.facts}
                api.namespace = gateway.namespace(provider, "", account.external_id)
                partitions = await provider.partitions(api) if provider.partitions else ()
            except PartlyDenied as error:
                partitions, refusal = error.found, f"{error.code}: {error}"
            except ProviderError as error:
                raise CommandError(in_a_terminal(f"{provider.name}: {error.code}: {error}"), returncode=3) from None
            scopes = "not told" if account.scopes is None else ", ".join(account.scopes) or "none"
            what = (provider.partition_label or "partitions").lower()
            self._say(
                f"{provider.name}: {account.label} ({account.external_id}), scopes {scopes}"
                + (f", {len(partitions)} {what}" if provider.partitions else "")
            )
            if refusal:
                self._say(f"  {what}: FAILED {refusal}")
            for label, missing in missing_scopes(provider, account.scopes).items():
                self._say(f"  not granted: {', '.join(missing)}, needed for {label}")
            if account.expires_at is not None:
                self._say(f"  access ends {account.expires_at:%Y-%m-%d}")
            now = datetime.now(UTC)
            window = Window(now - timedelta(days=days), now - provider.settle)
            well = not refusal
            for stream in streams:
                if stream.partitioned and not partitions:
                    self._say(f"  {stream.name}: nothing to list it by")
                    continue
                report = await self._stream(api, stream, partitions if stream.partitioned else [WHOLE], window)
                self._tell(report)
                well = well and report.is_well
        return well

    async def _stream(self, api: Api, stream: Stream, partitions: Sequence[Partition], window: Window) -> StreamReport:
        """Of the first partition that has rows, so that there is something to say."""
        for partition in partitions[:MOST_PARTITIONS]:
            report = await check_stream(api, stream, partition, window)
            if report.reading.records or not report.is_well:
                break
        return report

    def _say(self, line: str) -> None:
        self.stdout.write(in_a_terminal(line))

    def _tell(self, report: StreamReport) -> None:
        where = f" in {report.partition}" if report.partition else ""
        if report.error is not None:
            self._say(f"  {report.stream}: FAILED {report.error[0]}: {report.error[1]}")
            return
        reading, counted = report.reading, report.counted
        expected = "" if counted is None else f" of {'' if counted.exact else 'about '}{counted.records}"
        more = "" if reading.whole else ", more to come"
        self._say(
            f"  {report.stream}{where}: {len(reading.records)}{expected} records in {reading.pages} {'page' if reading.pages == 1 else 'pages'}{more}, "
            f"{report.entities.total()} entities, {report.relationships.total()} relationships, "
            f"{len(reading.rejected)} rejected"
        )
        if report.span is not None:
            first, last = report.span
            outside = f", {reading.outside} rows outside the window left out" if reading.outside else ""
            repeated = f", {reading.repeated} came twice" if reading.repeated else ""
            self._say(f"    from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}{outside}{repeated}")
        if report.edges:
            self._say(f"    window edges: {report.edges}")
        for kinds in (report.entities, report.relationships):
            if kinds:
                self._say(f"    {', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}")
        for reason in reading.rejected[:MOST_REASONS]:
            self._say(f"    rejected: {reason}")
        for words in report.wrong[:MOST_REASONS]:
            self._say(f"    WRONG: {words}")
