"""`manage.py check --deploy` on production settings, for `make lint`: the secrets are made up, the database is not asked."""

from __future__ import annotations

import os
import secrets
import sys

from cryptography.fernet import Fernet


def main() -> None:
    os.environ.update(
        ATOM_ENV="production",
        ATOM_SECRET_KEY=secrets.token_urlsafe(50),
        ATOM_ENCRYPTION_KEYS=Fernet.generate_key().decode(),
        ATOM_ALLOWED_HOSTS="atom.example",
        ATOM_PUBLIC_URL="https://atom.example",
        DATABASE_URL="postgresql://nobody@localhost/none",
        REDIS_URL="redis://localhost",
        DJANGO_SETTINGS_MODULE="atom.settings",
    )
    from django.core.management import execute_from_command_line

    execute_from_command_line([sys.argv[0], "check", "--deploy", "--fail-level", "WARNING"])


if __name__ == "__main__":
    main()
