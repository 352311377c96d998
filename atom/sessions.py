"""Sessions in the database, as Django keeps them, and what the next page alone shows."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import InvalidToken
from django.contrib.sessions.backends import db
from django.http import HttpRequest

from atom.encryption import box
from atom.models import Tenant


class SessionStore(db.SessionStore):
    def _validate_session_key(self, key: Any) -> bool:
        """What a cookie holds may be a key of ours. Not NUL, for one, which the database takes in no text."""
        possible = super()._validate_session_key(key)  # type: ignore[misc] # Django's own hook, which its stubs leave out
        return bool(possible) and key.isascii() and key.isalnum()


def show_next(request: HttpRequest, tenant: Tenant, page: str, whose: str, secret: str) -> None:
    """Has the page show the secret, once: a form's answer that showed it itself would make another when it is loaded again.

    Sealed until then: who never loads that page leaves it in the session's row, and in backups.
    """
    request.session[f"shown-once:{page}"] = [str(tenant.id), whose, box().encrypt(secret.encode()).decode()]


def shown_once(request: HttpRequest, tenant: Tenant, page: str) -> tuple[str, str]:
    """Whose secret this page is to show, and the secret, which is forgotten with this; both "" when there is none."""
    of_tenant, whose, sealed = request.session.pop(f"shown-once:{page}", ("", "", ""))
    if of_tenant != str(tenant.id):
        return "", ""
    try:
        return whose, box().decrypt(sealed).decode()
    except InvalidToken:  # the key went meanwhile
        return "", ""
