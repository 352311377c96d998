"""The queue's tasks that are of no tenant."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from channels.db import DatabaseSyncToAsync
from django.db import OperationalError
from procrastinate import RetryStrategy
from procrastinate.contrib.django import app

from atom.threads import in_thread

# Mail servers may be slow, and nothing else must wait for them.
_MAIL = ThreadPoolExecutor(1, thread_name_prefix="links")
# For hours. Cancelled is what a worker has in hand that is to end, once its time is over.
AGAIN = RetryStrategy(
    max_attempts=6,
    exponential_wait=5,
    retry_exceptions=[OSError, OperationalError, asyncio.CancelledError],  # type: ignore[list-item]
)


@app.task(
    queue="upkeep",
    name="atom.send_link",
    pass_context=False,
    retry=AGAIN,
)
async def send_link(email: str, root: str) -> None:
    """Sends the link for another password; again later where the mail server does not take it, or the worker goes away.

    By the queue and not by the page: that would take longer where there is an account than where there is none, and so tell which.
    """
    from atom import accounts

    await DatabaseSyncToAsync(accounts.send_link, thread_sensitive=False, executor=_MAIL)(email, root)


@app.task(
    queue="upkeep",
    name="atom.note_failed_sign_in",
    pass_context=False,
    retry=AGAIN,
)
async def note_failed_sign_in(user_id: str | None, address: str | None, at: str, detail: str) -> None:
    """Writes down that somebody failed to sign in as this user, None: as nobody that there is."""
    from atom import sign_ins

    await in_thread(sign_ins.note_failed)(user_id, address, at, detail)
