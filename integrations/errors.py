"""What can go wrong between Atom and a provider, and what to do about it.

The class carries the decision; nobody looks at a message or a status code again after `integrations.http` has chosen one.

    ProviderError
    ├── RetryLater              the same request may work later
    │   ├── Throttled             the provider's limit; never spends a retry; `retry_at` when it said so
    │   ├── NotReady              the answer is being prepared: only this request waits; never spends a retry
    │   └── Unavailable           5xx, reset, time-out, a body cut short or not JSON; spends a retry
    │       └── TookTooLong         502, 504, no answer in time: a fetch may ask for fewer rows
    ├── ReauthRequired          the grant is gone: pause the connection's jobs until a person reconnects
    ├── AccessDenied            this stream or partition may not be read: it fails in words, the others go on
    │   ├── PartlyDenied          of several sites or workspaces some refuse: `found` is what the others have
    │   ├── NotFound              nothing is at the address, or we are not to know of it
    │   └── Gone                  what was listed a moment ago is not there any more: a fetch goes on without it
    ├── CursorExpired           the page cursor is dead: start again at the last committed position
    ├── Endless                 page after page brings nothing new: fail the chunk
    ├── WindowTooLarge          the provider caps results: split the window in two
    ├── Misconfigured           the operator must act (client id or secret wrong, host not allowed)
    └── RequestRejected         the provider refuses the request as such: fail the chunk

    RecordRejected            one record can't be mapped: quarantine it, go on
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integrations.providers.base import Partition


class ProviderError(Exception):
    """Base of everything a provider call raises. `str(error)` is for people and never holds a secret.

    `code` is stable and machine-readable; it ends up in `last_error.code` of a job. NUL, which a provider may send and no column
    holds, becomes U+FFFD.
    """

    code = "provider_error"

    def __init__(self, message: str = "") -> None:
        super().__init__(message.replace("\0", "\ufffd"))


class RetryLater(ProviderError):
    """The same request may work later. `retry_at`: aware UTC time the provider named, or None to back off."""

    code = "retry_later"

    def __init__(self, message: str, retry_at: datetime | None = None) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class Throttled(RetryLater):
    """The provider's rate limit or quota. Not our failure and not a retry.

    `daily`: True when a long-term quota is used up (hours, not seconds).
    """

    code = "provider_throttled"

    def __init__(self, message: str, retry_at: datetime | None = None, *, daily: bool = False) -> None:
        super().__init__(message, retry_at)
        self.daily = daily


class NotReady(RetryLater):
    """The provider prepares the answer. No limit: what else is asked of it meanwhile is answered."""

    code = "provider_preparing"


class Unavailable(RetryLater):
    """The provider or the way to it failed: 5xx, connection reset, time-out, truncated or invalid body."""

    code = "provider_unavailable"


class TookTooLong(Unavailable):
    """The provider did not have its answer ready in time. It may have fewer rows ready, if it is not out of order."""


class ReauthRequired(ProviderError):
    """The grant was revoked or has expired for good; only a person can reconnect."""

    code = "connection_reauth_required"


class AccessDenied(ProviderError):
    """The grant is fine but does not reach this stream or partition (scope, permission, feature switched off)."""

    code = "provider_access_denied"


class PartlyDenied(AccessDenied):
    """Of the places that the grant covers (sites, workspaces) some refuse to list what they have. `found`: the others' partitions."""

    def __init__(self, message: str, found: Sequence[Partition]) -> None:
        super().__init__(message)
        self.found = found


class NotFound(AccessDenied):
    """The provider has nothing at the address (404, 410), or does not say what: many hide so what one may not read."""


class Gone(AccessDenied):
    """What was listed a moment ago is not there any more, or no longer for us. A fetch that lists and then looks goes on without it."""


class CursorExpired(ProviderError):
    """The provider no longer knows the page cursor."""

    code = "provider_cursor_expired"


class Endless(ProviderError):
    """The provider sends one page after another and nothing new in any of them."""

    code = "provider_endless_pages"


class WindowTooLarge(ProviderError):
    """The provider will not list all of this window (a cap on results, a query time-out)."""

    code = "provider_window_too_large"


class Misconfigured(ProviderError):
    """The deployment's set-up is wrong: client credentials, an address that is not allowed."""

    code = "provider_misconfigured"


class RequestRejected(ProviderError):
    """The provider refuses the request as such (4xx that none of the above explains)."""

    code = "provider_rejected_request"


class RecordRejected(Exception):
    """One record can't be mapped. Its message is the reason shown beside the quarantined record."""


# What reading or mapping a record raises when it is not as its provider's file expects.
UNMAPPABLE = (RecordRejected, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
