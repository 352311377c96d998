"""manage.py changepassword: Django's, with the line in the audit log that each change of a password leaves."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.management.commands import changepassword

from atom import sign_ins
from atom.audit import OPERATOR
from atom.models import User


class Command(changepassword.Command):
    def handle(self, *args: Any, **options: Any) -> str | None:
        said: str | None = super().handle(*args, **options)
        sign_ins.note(User.objects.get(email=options["username"]), OPERATOR, "member.password", "from the command line")
        return said
