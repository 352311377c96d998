"""Which tenant the code is working for, for the database's row-level security.

    with tenant_scope(tenant_id): ...            this tenant's rows
    with across_tenants("reaper"): ...           all tenants' rows; say why
    (neither)                                    no tenant-owned row is visible or writable

The scope lives in a context variable, so it follows threads and tasks as Python's contexts do; `atom.db` applies it to the
connection before each statement. This is the second line: in the code, the tenant is an argument of every query.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple
from uuid import UUID

APP_ROLE = "atom_app"
SYSTEM_ROLE = "atom_system"


class Scope(NamedTuple):
    """`role` and `tenant` as the connection shall have them."""

    role: str
    tenant: str


NOBODY = Scope(APP_ROLE, "")
_EVERYBODY = Scope(SYSTEM_ROLE, "")
_scope: ContextVar[Scope] = ContextVar("atom_scope", default=NOBODY)


def current_scope() -> Scope:
    return _scope.get()


@contextmanager
def tenant_scope(tenant_id: UUID | str) -> Iterator[None]:
    """Work for one tenant."""
    token = _scope.set(Scope(APP_ROLE, str(tenant_id)))
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def across_tenants(reason: str) -> Iterator[None]:
    """Work for the deployment: sign-in, the admin, the reaper, the scheduler. `reason` is for the reader of the call."""
    if not reason:
        raise ValueError("crossing tenants needs a reason")
    token = _scope.set(_EVERYBODY)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def scope_kept() -> Iterator[None]:
    """Whatever `enter_tenant` does inside ends with it."""
    token = _scope.set(_scope.get())
    try:
        yield
    finally:
        _scope.reset(token)


def enter_tenant(tenant_id: UUID | str) -> None:
    """Work for one tenant until the surrounding `scope_kept()` ends: for code that learns the tenant half-way through."""
    _scope.set(Scope(APP_ROLE, str(tenant_id)))
