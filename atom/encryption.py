"""ATOM_ENCRYPTION_KEYS: the newest encrypts, every one decrypts, so that keys can be rotated."""

from __future__ import annotations

from functools import lru_cache

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


def box() -> MultiFernet:
    """Raises ImproperlyConfigured when one of them is no key; its `decrypt` raises InvalidToken when none of them fits."""
    return _box(tuple(settings.ENCRYPTION_KEYS))


@lru_cache(maxsize=4)
def _box(keys: tuple[str, ...]) -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError as error:
        raise ImproperlyConfigured(
            "ATOM_ENCRYPTION_KEYS must be comma-separated Fernet keys (32 bytes, URL-safe base64), newest first"
        ) from error
