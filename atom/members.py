"""What owners and admins do in their workspace: members, API keys, its name. Each action is recorded in the audit log.

Callers have checked `Right.MANAGE`, but of who leaves. Only an owner makes, changes or removes an owner, and the last one stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from atom import audit
from atom.access import RIGHTS, Actor, Right
from atom.db.giving_way import again_after_giving_way
from atom.errors import InvalidInput, Refused
from atom.models import ApiKey, Membership, Role, Tenant, User
from atom.words import plural

MOST_MEMBERS = 500
MOST_KEYS = 100
NEEDS_AN_OWNER = "A workspace needs an owner. Make somebody else an owner first."
BY_AN_OWNER = "Only an owner can change or remove an owner."
KEY_LIVES = {"30": "In 30 days", "90": "In 90 days", "365": "In 1 year", "": "Never"}  # days -> words


@dataclass(frozen=True, slots=True)
class Granted:
    """Access to a tool that a member granted. name: for people."""

    id: str
    name: str


# The same of other packages' tables, filled in by the one that knows: what a user connected in a tenant and is in use, and who gives it up
# for the actor, which returns what tools go on to honour, in words by id.
granted_by: Callable[[Tenant, User], Sequence[Granted]] = lambda tenant, user: ()  # noqa: E731
give_up: Callable[[Actor, Sequence[str]], Mapping[str, str]] = lambda actor, granted: {}  # noqa: E731


def members_of(tenant: Tenant) -> Any:
    """The tenant's memberships with their people, owners first."""
    rank = {role: i for i, role in enumerate(Role.values)}
    found = Membership.objects.filter(tenant=tenant).select_related("user")
    return sorted(found, key=lambda one: (rank[one.role], one.user.email))


def keys_of(tenant: Tenant) -> Any:
    """The tenant's API keys, newest first; those that were revoked last."""
    return ApiKey.objects.filter(tenant=tenant).select_related("created_by").order_by("revoked", "-created")


def invite(actor: Actor, email: str, role: str) -> Membership:
    """Makes the person with this address a member, and a user if they are none yet; they set a password by a link.

    Raises InvalidInput (email, role) and Refused (already a member; an owner made by somebody else).
    """
    email = email.strip().lower()
    try:
        validate_email(email)
        if len(email) > 254:
            raise ValidationError("too long")
    except ValidationError:
        raise InvalidInput("invalid", "This is not an e-mail address.", "email") from None
    _check_role(actor, role)
    with transaction.atomic():
        tenant = _locked(actor)
        # Not looked for first: another workspace may invite them just now. Without a password nobody gets in.
        user, _ = User.objects.get_or_create(email=email, defaults={"password": make_password(None)})
        if not user.is_active:
            raise InvalidInput("invalid", "This account was closed by the operator.", "email")
        if Membership.objects.filter(tenant=tenant, user=user).exists():
            raise InvalidInput("invalid", f"{email} is a member already.", "email")
        if Membership.objects.filter(tenant=tenant).count() >= MOST_MEMBERS:
            raise Refused("invalid_state", f"A workspace has at most {MOST_MEMBERS} members.")
        made = Membership.objects.create(tenant=tenant, user=user, role=role)
        action = "member.added" if user.has_come else "member.invited"
        audit.record(tenant.id, actor.label, action, email, f"as {role}")
    return made


def change_role(actor: Actor, membership_id: UUID, role: str) -> Membership:
    """Raises Membership.DoesNotExist for another tenant's, InvalidInput (role), Refused (the last owner, an owner by an admin)."""
    _check_role(actor, role)
    with transaction.atomic():
        tenant = _locked(actor)
        found = _member(actor, tenant, membership_id)
        if found.role == role:
            return found
        if found.role == Role.OWNER:
            _check_not_last(tenant)
        before, found.role = found.role, role
        found.save(update_fields=["role"])
        audit.record(tenant.id, actor.label, "member.role", found.user.email, f"from {before} to {role}")
    return found


@dataclass(frozen=True, slots=True)
class Left:
    """What a member would leave behind: keys that they made and tools that they connected, as far as these are in use."""

    keys: Sequence[ApiKey]
    granted: Sequence[Granted]


def left_by(membership: Membership) -> Left:
    """What goes on without the member, unless it ends with the membership."""
    keys = keys_of(membership.tenant).filter(created_by=membership.user, revoked=False)
    in_use = [key for key in keys if not key.has_expired]
    return Left(in_use, granted_by(membership.tenant, membership.user))


def remove(
    actor: Actor, membership_id: UUID, *, keys: Collection[str] = (), connections: Collection[str] = ()
) -> tuple[Membership, list[str]]:
    """Ends a membership at once; the person's account stays. Raises as `change_role` does.

    keys, connections: of those that they leave (`left_by`) prefixes of the ones to revoke and ids of the ones to give up, whose data is
    kept. Also returns what tools go on to honour, in words.
    """
    with transaction.atomic():
        found = _leaving(actor, _locked(actor), membership_id)
    # Each asks its provider, so in no transaction, and first: who is still a member is asked about them again.
    ending = [one for one in left_by(found).granted if one.id in connections]
    if ending and not actor.may(Right.CONNECT) and found.user != actor.user:
        raise Refused("permission_denied", "You may not disconnect what they connected.", status_code=403)
    lives_on = give_up(actor, [one.id for one in ending])
    honoured = [f"{one.name}: {words}." for one in ending if (words := lives_on.get(one.id))]
    with transaction.atomic():
        tenant = _locked(actor)
        found = _leaving(actor, tenant, membership_id)
        left = left_by(found)
        revoked = [key for key in left.keys if key.prefix in keys]
        for key in revoked:
            revoke_key(actor, key.prefix)
        Membership.objects.filter(tenant=tenant, id=found.id).delete()
        detail = [f"was {found.role}"]
        if left.keys:
            detail.append(_ended(len(revoked), len(left.keys) - len(revoked), "API key,API keys", "revoked"))
        if ending or left.granted:
            detail.append(_ended(len(ending), len(left.granted), "connection,connections", "disconnected"))
        audit.record(tenant.id, actor.label, "member.removed", found.user.email, "; ".join(detail))
    return found, honoured


def _ended(ended: int, stay: int, what: str, how: str) -> str:
    """ "2 API keys revoked, 1 stays"."""
    if not ended:
        return f"{plural(stay, what)} {'stays' if stay == 1 else 'stay'}"
    rest = f", {stay} {'stays' if stay == 1 else 'stay'}" if stay else ""
    return f"{plural(ended, what)} {how}{rest}"


def _leaving(actor: Actor, tenant: Tenant, membership_id: UUID) -> Membership:
    """Who may be removed by the actor. Raises as `change_role` does."""
    found = _member(actor, tenant, membership_id)
    if found.role == Role.OWNER:
        _check_not_last(tenant)
    return found


def without_owner_if_gone(users: Collection[User]) -> QuerySet[Membership]:
    """Their memberships as owners where nobody else owns the tenant, of any tenant."""
    others = Membership.objects.filter(tenant=OuterRef("tenant"), role=Role.OWNER).exclude(user__in=users)
    owned = Membership.objects.filter(user__in=users, role=Role.OWNER).exclude(Exists(others))
    return owned.select_related("tenant", "user").order_by("tenant__name", "user__email")


def remove_everywhere(label: str, users: Collection[User]) -> None:
    """Ends every membership of people whose accounts are about to be deleted, in the caller's transaction and across tenants.

    label: who does it. Raises Refused when a tenant would be left without an owner.
    """
    theirs = Membership.objects.filter(user__in=users)
    # As `_locked`, of all that it concerns; by id, so that two who do this wait for each other.
    list(Tenant.objects.select_for_update(no_key=True).filter(id__in=theirs.values("tenant")).order_by("id"))
    if without_owner_if_gone(users).exists():
        raise Refused("invalid_state", NEEDS_AN_OWNER)
    for found in theirs.select_related("user"):
        found.delete()
        audit.record(found.tenant_id, label, "member.removed", found.user.email, f"was {found.role}")


def accounts_that_end_with(tenant: Tenant) -> QuerySet[User]:
    """Accounts of members who are in no other tenant and are no staff of the deployment: without this one they lead nowhere. The caller
    works across tenants."""
    elsewhere = Membership.objects.filter(user=OuterRef("pk")).exclude(tenant=tenant)
    mine = Membership.objects.filter(tenant=tenant).values("user")
    return User.objects.filter(~Exists(elsewhere), id__in=mine, is_staff=False, is_superuser=False)


@again_after_giving_way
@transaction.atomic
def end_all_access(tenant: Tenant) -> int:
    """Nobody comes into a tenant that is about to be deleted any more: its API keys and memberships go, and with these, as it is known
    only now whose they are, `accounts_that_end_with` it; how many these were. The caller works across tenants."""
    list(Tenant.objects.select_for_update(no_key=True).filter(id=tenant.id))
    # With their memberships, before it is looked where else they are: another workspace may invite one of them just now.
    list(User.objects.select_for_update().filter(memberships__tenant=tenant).order_by("id"))
    leaving = list(accounts_that_end_with(tenant))
    ApiKey.objects.filter(tenant=tenant).delete()
    Membership.objects.filter(tenant=tenant).delete()
    User.objects.filter(id__in=[user.id for user in leaving]).delete()
    return len(leaving)


def create_key(actor: Actor, name: str, role: str, days: str) -> tuple[ApiKey, str]:
    """A key for a program and its secret, which is not kept. days: one of `KEY_LIVES`. Raises InvalidInput (name, role, days)."""
    name = name.strip()
    if not name or len(name) > 50 or not name.isprintable():
        raise InvalidInput("invalid", "A key needs a name of at most 50 characters.", "name")
    if days not in KEY_LIVES:
        raise InvalidInput("invalid", "Choose how long the key lives.", "days")
    _check_role(actor, role)
    with transaction.atomic():
        tenant = _locked(actor)
        if ApiKey.objects.filter(tenant=tenant, revoked=False).count() >= MOST_KEYS:
            raise Refused("invalid_state", f"A workspace has at most {MOST_KEYS} keys. Revoke one first.")
        expiry = timezone.now() + timedelta(days=int(days)) if days else None
        key, secret = ApiKey.objects.create_key(
            tenant=tenant, name=name, role=role, expiry_date=expiry, created_by=actor.user
        )
        audit.record(tenant.id, actor.label, "key.created", name, f"as {role}")
    assert isinstance(key, ApiKey)
    return key, secret


def revoke_key(actor: Actor, prefix: str) -> ApiKey:
    """Ends a key at once and for good. Raises ApiKey.DoesNotExist for another tenant's."""
    with transaction.atomic():
        tenant = _locked(actor)
        key: ApiKey = ApiKey.objects.get(tenant=tenant, prefix=prefix)
        if not key.revoked:
            key.revoked = True
            key.save(update_fields=["revoked"])
            audit.record(tenant.id, actor.label, "key.revoked", key.name)
    return key


def rename(actor: Actor, name: str) -> Tenant:
    """Raises InvalidInput (name)."""
    name = name.strip()
    if not name or len(name) > 150 or not name.isprintable():
        raise InvalidInput("invalid", "A workspace needs a name of at most 150 characters.", "name")
    with transaction.atomic():
        tenant = _locked(actor)
        if tenant.name != name:
            before, tenant.name = tenant.name, name
            tenant.save(update_fields=["name"])
            audit.record(tenant.id, actor.label, "workspace.renamed", name, f"was {before}")
    return tenant


def _locked(actor: Actor) -> Tenant:
    """One at a time per tenant: "the last owner" is counted under this lock. Raises Refused for who was removed, or got another role,
    since they asked: they would let themselves in again, or leave a key behind."""
    tenant = Tenant.objects.select_for_update(no_key=True).get(id=actor.tenant.id)
    if actor.user and not Membership.objects.filter(tenant=tenant, user=actor.user, role=actor.role).exists():
        raise Refused("permission_denied", "Your role was changed meanwhile. Nothing was done.", status_code=403)
    return tenant


def _member(actor: Actor, tenant: Tenant, membership_id: UUID) -> Membership:
    found = Membership.objects.select_related("user", "tenant").get(tenant=tenant, id=membership_id)
    if found.role == Role.OWNER and actor.role != Role.OWNER:
        raise Refused("permission_denied", BY_AN_OWNER, status_code=403)
    return found


def _check_role(actor: Actor, role: str) -> None:
    if role not in RIGHTS:
        raise InvalidInput("invalid", "Choose a role.", "role")
    if role == Role.OWNER and actor.role != Role.OWNER:
        raise Refused("permission_denied", "Only an owner can give the rights of an owner.", status_code=403)


def _check_not_last(tenant: Tenant) -> None:
    if Membership.objects.filter(tenant=tenant, role=Role.OWNER).count() < 2:
        raise Refused("invalid_state", NEEDS_AN_OWNER)
