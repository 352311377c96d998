"""What a new machine has to look at: two tenants and four people. Never with production settings."""

from __future__ import annotations

from atom.models import Membership, Role, Tenant, User
from atom.tenancy import tenant_scope

PASSWORD = "demo"
TENANTS = (("acme", "Acme", "team"), ("globex", "Globex", "free"))
PEOPLE = (
    ("alice@acme.test", "Alice", "acme", Role.OWNER),
    ("bob@acme.test", "Bob", "acme", Role.MEMBER),
    ("vera@acme.test", "Vera", "acme", Role.VIEWER),
    ("charlie@globex.test", "Charlie", "globex", Role.OWNER),
)


def is_empty() -> bool:
    """Whether the database has neither tenants nor people."""
    return not Tenant.objects.exists() and not User.objects.exists()


def create() -> None:
    """The demo's tenants and people. Alice is staff as well, so that the admin can be seen."""
    tenants = {slug: Tenant.objects.create(slug=slug, name=name, plan=plan) for slug, name, plan in TENANTS}
    for email, name, slug, role in PEOPLE:
        staff = role == Role.OWNER and slug == "acme"
        user = User.objects.create_user(email, PASSWORD, name=name, is_staff=staff, is_superuser=staff)
        with tenant_scope(tenants[slug].id):
            Membership.objects.create(tenant=tenants[slug], user=user, role=role)
