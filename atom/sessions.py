"""Sessions in the database, as Django keeps them."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    def _validate_session_key(self, key: Any) -> bool:
        """What a cookie holds may be a key of ours. Not NUL, for one, which the database takes in no text."""
        possible = super()._validate_session_key(key)  # type: ignore[misc] # Django's own hook, which its stubs leave out
        return bool(possible) and key.isascii() and key.isalnum()
