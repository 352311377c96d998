"""What signing in, failing to, and passwords leave in the audit log: a line in each workspace of the person's.

With the address that it came from, for `audit.ADDRESSES_KEPT`, where they have been in that workspace since they were added to it:
whoever runs one may add anybody who has an account, and asks nobody. How many lines there can be of a day is bounded (`tries`), or whoever
tries passwords would fill a log that nothing is ever taken out of. See docs/decisions/0011-sign-ins-in-the-log.md.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from atom import audit, tasks, tries
from atom.access import SESSION_TENANT, actor_for_user
from atom.models import Membership, User
from atom.tenancy import across_tenants, tenant_scope

log = logging.getLogger(__name__)

SOMEBODY = "Somebody"  # who fails to sign in: it need not be whose account it is
IN_THE_ADMIN = "in the admin"


def note(
    user: User, actor: str, action: str, detail: str = "", *, address: str | None = None, at: datetime | None = None
) -> None:
    """A line in the audit log of each workspace of the user's, in the caller's transaction; with the address in those that they entered."""
    with across_tenants("a user's own memberships"):
        memberships = list(Membership.objects.filter(user=user))
    for one in memberships:
        with tenant_scope(one.tenant_id):
            told = address if one.entered_at else None
            audit.record(one.tenant_id, actor, action, user.email, detail, address=told, at=at)


def signed_in(request: HttpRequest, user: User, detail: str = "") -> None:
    # By which they enter the workspace that they find themselves in.
    actor_for_user(user, request.session.get(SESSION_TENANT))
    if not tries.for_a_line(request, user.email).one_too_many():
        note(user, user.get_short_name(), "member.signed_in", detail, address=tries.address_of(request))


def signed_out(request: HttpRequest, user: User, detail: str = "") -> None:
    if not tries.for_a_line(request, user.email).one_too_many():
        note(user, user.get_short_name(), "member.signed_out", detail, address=tries.address_of(request))


def password_changed(request: HttpRequest, user: User, detail: str = "") -> None:
    note(user, user.get_short_name(), "member.password", detail, address=tries.address_of(request))


def password_refused(request: HttpRequest, user: User) -> None:
    """Somebody who is signed in did not know the old one."""
    if not tries.for_a_failed_line(request, user.email).one_too_many():
        address = tries.address_of(request)
        note(user, user.get_short_name(), "member.password_refused", "the old one was wrong", address=address)


def failed(request: HttpRequest, email: str, detail: str = "") -> None:
    """Has it written down, by the queue and not by the page: that would take longer where there is an account, and so tell.

    What was typed goes no further: it can be a password.
    """
    if tries.for_a_failed_line(request, email).one_too_many():
        return
    user = User.objects.filter(email=email).only("id").first()
    tasks.note_failed_sign_in.defer(
        user_id=str(user.id) if user else None,
        address=tries.address_of(request),
        at=timezone.now().isoformat(),
        detail=detail,
    )


@transaction.atomic
def note_failed(user_id: str | None, address: str | None, at: str, detail: str) -> None:
    user = User.objects.filter(id=user_id).first() if user_id else None
    if user is None:
        log.info("somebody failed to sign in, and there is no such account, from %s", address or "no address")
        return
    if user.is_staff:  # whose workspaces, if any, do not tell whoever runs this
        log.warning("somebody failed to sign in as %s, who is staff, from %s", user.email, address or "no address")
    note(user, SOMEBODY, "member.sign_in_failed", detail, address=address, at=datetime.fromisoformat(at))
