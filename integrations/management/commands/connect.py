"""manage.py connect: a connection from a personal or service token."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from atom.access import system_actor
from atom.errors import Refused
from atom.models import Tenant
from atom.tenancy import tenant_scope
from atom.words import in_a_terminal
from integrations.connect import connect_with_token
from integrations.providers import PROVIDERS


class Command(BaseCommand):
    help = "Connects a provider with a token, verified against the provider; prints the connection's id."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("provider", metavar="PROVIDER", help=", ".join(PROVIDERS))
        parser.add_argument("stdin", nargs="?", choices=["-"], metavar="-", help="read the token from standard input")
        parser.add_argument("--tenant", required=True, metavar="SLUG")
        given = parser.add_mutually_exclusive_group()
        given.add_argument("--token", help="the token; visible to others in the process list, so prefer the other two")
        given.add_argument("--token-file", metavar="F", help="a file that holds the token; - for standard input")
        parser.add_argument("--base-url", default="", metavar="URL", help="API root of a self-hosted provider")
        parser.add_argument("--label", default="", help="a name for the account")
        parser.add_argument(
            "--only", metavar="A,B", help="import only these repositories, channels, projects (names or ids)"
        )
        parser.add_argument(
            "--fact", action="append", default=[], metavar="NAME=VALUE", help="what the provider asks before connecting"
        )
        parser.add_argument("--json", action="store_true", help="print the connection as JSON")
        # Python's usual way takes what comes after the first option for no positional argument.
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]

    def handle(self, *args: Any, **options: Any) -> None:
        provider = PROVIDERS.get(options["provider"])
        if provider is None:
            raise CommandError(
                f"There is no provider {options['provider']!r}; there are {', '.join(PROVIDERS)}.", returncode=2
            )
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {options['tenant']!r}.", returncode=2)
        with tenant_scope(tenant.id):
            try:
                connection = connect_with_token(
                    system_actor(tenant, "command line"),
                    provider,
                    self._token(options),
                    base_url=options["base_url"],
                    label=options["label"],
                    private_host_allowed=True,
                    facts=facts_of(options["fact"]),
                    only=options["only"].split(",") if options["only"] is not None else None,
                )
            except Refused as error:
                at = f"{error.attr}: " if error.attr else ""
                raise CommandError(in_a_terminal(f"{at}{error.detail}"), returncode=2) from None
        if options["json"]:
            shown = {
                "id": str(connection.id),
                "provider": provider.slug,
                "account": connection.account_label,
                "status": connection.status,
                "scopes": connection.scopes,
                "base_url": connection.base_url,
                "only": connection.only,
            }
            self.stdout.write(json.dumps(shown))
        else:
            self.stdout.write(str(connection.id))

    def _token(self, options: dict[str, Any]) -> str:
        if options["stdin"] and (options["token"] or options["token_file"]):
            raise CommandError("Give the token in one way: --token, --token-file or -.", returncode=2)
        if options["token"] is not None:
            return str(options["token"])
        if options["stdin"] or options["token_file"] == "-":
            return sys.stdin.readline().strip()
        if options["token_file"]:
            try:
                return Path(options["token_file"]).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise CommandError(f"The token file can't be read: {error}", returncode=2) from None
        raise CommandError("Give the token with --token, --token-file or - (standard input).", returncode=2)


def facts_of(given: list[str]) -> dict[str, str]:
    """What --fact was given, each NAME=VALUE."""
    facts = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise CommandError(f"--fact takes NAME=VALUE, not {pair!r}.", returncode=2)
        facts[name] = value
    return facts
