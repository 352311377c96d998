"""manage.py create_tenant: a tenant and its owner."""

from __future__ import annotations

import getpass
import secrets
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from atom.models import Membership, Role, Tenant, User
from atom.plans import PLANS
from atom.tenancy import tenant_scope


class Command(BaseCommand):
    help = "Creates a tenant and its owner; asks for the owner's password when the user is new and has one."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--slug", required=True)
        parser.add_argument("--plan", required=True, choices=list(PLANS))
        parser.add_argument("--owner", required=True, metavar="EMAIL")
        parser.add_argument("--password-file", metavar="F", help="a file that holds the password; - for standard input")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with transaction.atomic():
                tenant = Tenant(name=options["name"].strip(), slug=options["slug"], plan=options["plan"])
                tenant.full_clean()
                if not tenant.name.isprintable():
                    raise ValidationError({"name": "It must be one line of printable characters."})
                tenant.save()
                email = options["owner"].strip().lower()
                user = User.objects.filter(email__iexact=email).first()
                if user is None:
                    user = User(email=email)
                    user.full_clean(exclude=["password"])
                    password = self._password(options["password_file"], email) if settings.PASSWORDS else None
                    if password is not None:
                        validate_password(password, user)
                    user = User.objects.create_user(email, password)
                with tenant_scope(tenant.id):
                    Membership.objects.create(tenant=tenant, user=user, role=Role.OWNER)
        except ValidationError as error:
            fields = error.message_dict if hasattr(error, "error_dict") else {"password": error.messages}
            words = "; ".join(f"{name}: {' '.join(messages)}" for name, messages in fields.items())
            raise CommandError(words, returncode=2) from None
        self.stdout.write(f"Tenant {tenant.slug} with owner {user.email}")

    def _password(self, path: str | None, email: str) -> str:
        if path == "-":
            return sys.stdin.readline().rstrip("\n")
        if path:
            try:
                return Path(path).read_text().rstrip("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise CommandError(f"The password file can't be read: {error}", returncode=2) from None
        if not sys.stdin.isatty():
            self.stderr.write(
                f"There is no terminal to ask for a password at: manage.py changepassword {email} sets one."
            )
            return secrets.token_urlsafe(24)
        try:
            password = getpass.getpass("Password for the owner: ")
            again = getpass.getpass("Again: ")
        except EOFError:  # Ctrl-D
            raise ValidationError("None was given.") from None
        if password != again:
            raise ValidationError("The two passwords differ.")
        return password
