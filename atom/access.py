"""Who is asking: the tenant and role behind a request, a key or a socket, and what a role may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.utils import timezone

from atom.models import ApiKey, Membership, Role, Tenant, User
from atom.tenancy import across_tenants

SESSION_TENANT = "tenant_id"


class Right(StrEnum):
    """What somebody may want to do in a tenant."""

    VIEW = "view"
    OPERATE = "operate"  # start, pause, cancel, resume imports
    CONNECT = "connect"  # connect, reconnect, disconnect
    MANAGE = "manage"  # members, keys, plan


RIGHTS: dict[str, frozenset[Right]] = {
    Role.OWNER: frozenset(Right),
    Role.ADMIN: frozenset(Right),
    Role.MEMBER: frozenset({Right.VIEW, Right.OPERATE, Right.CONNECT}),
    Role.VIEWER: frozenset({Right.VIEW}),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody acting in a tenant: a user by membership, a program by key, or the deployment itself.

    `label` is for people and the event log. `user` is None for keys and for the system. `tenants`: all that the user is a member
    of, by name, where the actor was found by their memberships.
    """

    tenant: Tenant
    role: str
    label: str
    user: User | None = None
    tenants: tuple[Tenant, ...] = ()

    def may(self, right: Right) -> bool:
        return right in RIGHTS[self.role]


def actor_for_user(user: Any, tenant_id: object | None) -> Actor | None:
    """The user's actor in `tenant_id`, or where they have been longest when the session holds none (any more).

    Not by name: whoever adds somebody to a workspace gives it its name, and would choose where they find themselves after signing in. That they were here is noted with their membership the first time.
    """
    if not getattr(user, "is_authenticated", False):
        return None
    with across_tenants("a user's own memberships"):
        memberships = list(Membership.objects.filter(user=user).select_related("tenant").order_by("tenant__name"))
        if not memberships:
            return None
        longest = min(memberships, key=lambda m: m.created_at)
        chosen = next((m for m in memberships if str(m.tenant_id) == str(tenant_id)), longest)
        if chosen.entered_at is None:
            Membership.objects.filter(id=chosen.id, entered_at=None).update(entered_at=timezone.now())
    return Actor(chosen.tenant, chosen.role, user.get_short_name(), user, tuple(m.tenant for m in memberships))


def actor_for_key(key: str) -> Actor | None:
    """The actor of an API key, None for a key that is wrong, revoked or expired."""
    if "." not in key or len(key) > 200:
        return None
    with across_tenants("the tenant of an API key is found by the key"):
        try:
            found: Any = ApiKey.objects.get_from_key(key)
        except ApiKey.DoesNotExist:
            return None
        if found.has_expired:
            return None
        ApiKey.objects.note_use(found)
        return Actor(found.tenant, found.role, f"API key {found.name}")


def system_actor(tenant: Tenant, label: str) -> Actor:
    """The deployment itself (command line, admin, scheduler) acting in a tenant."""
    return Actor(tenant, Role.OWNER, label)
