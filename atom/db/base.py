"""Django's PostgreSQL backend with five additions.

* Connections take the run-time role `atom_app`, which owns nothing and can't bypass row-level security.
  Commands that change the schema run `as_owner()`.
* Before a cursor is made, the connection's role and `atom.tenant` follow the context that `atom.tenancy` holds. Whoever opens,
  pools or shares a connection need not care: the context decides, and with none set nothing is visible.
* Without DATABASE_URL the embedded server is started by the first connection.
* Servers before PostgreSQL 15 are refused by name: views there read with their owner's rights, past the policies.
* Poolers are refused: behind one, tenants would find each other's settings (`atom.db.pooler`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import psycopg
from django.db.backends.postgresql import base, features
from psycopg.pq import Format

from atom.db import pooler
from atom.tenancy import APP_ROLE, Scope, current_scope

# Seconds after which the server ends a transaction in which nothing happens: its process is frozen or gone, its locks are not.
# Longer than any answer that is waited for in a transaction (a token endpoint's: `integrations.gateway`).
FROZEN_AFTER = 60
OURS = ("context", "cursor_factory", "prepare_threshold")  # of a connection's parameters: what the server is not told
_owner = False


@contextmanager
def as_owner() -> Iterator[None]:
    """Connections made inside belong to the schema's owner: for migrations, and for tests that clean up. Not thread-safe."""
    global _owner
    from django.db import connections

    connections.close_all()
    before, _owner = _owner, True
    try:
        yield
    finally:
        connections.close_all()
        _owner = before


class TimestamptzLoader:
    """psycopg's own loader, which is in C; Django's, in Python for the sake of other zones than the connection's, takes ten times as long."""

    format = Format.TEXT
    timezone = UTC  # Django asks the connection's loader before it makes one of its own

    def __init__(self, oid: int, context: Any = None) -> None:
        kind = psycopg.adapters.get_loader(oid, self.format)
        assert kind is not None
        self.load = kind(oid, context).load


class DatabaseFeatures(features.DatabaseFeatures):
    minimum_database_version = (15,)


class DatabaseWrapper(base.DatabaseWrapper):
    features_class = DatabaseFeatures
    # What the server's side of this connection is set to; None: not known, set it before the next statement.
    _applied: Scope | None = None

    @property
    def pool(self) -> Any:
        return None if _owner else super().pool

    def get_connection_params(self) -> dict[str, Any]:
        if self.settings_dict.get("EMBEDDED"):
            from atom import embedded

            self.settings_dict.update(embedded.connection_settings())
        params: dict[str, Any] = super().get_connection_params()
        params["context"] = psycopg.adapt.AdaptersMap(params["context"])
        params["context"].register_loader("timestamptz", TimestamptzLoader)
        if not _owner and self.settings_dict["NAME"] is not None:
            limit = f"-c idle_in_transaction_session_timeout={FROZEN_AFTER * 1000}"
            params["options"] = f"{params.get('options', '')} -c role={APP_ROLE} {limit}".strip()
        return params

    def refuse_pooler(self) -> None:
        """Raises EnvError where the connections to come would be no sessions of their own. The embedded server's are beyond doubt."""
        if not self.settings_dict.get("EMBEDDED"):
            arguments = super().get_connection_params()  # without the role, which there need not be yet
            pooler.refuse_pooler({name: arguments[name] for name in arguments if name not in OURS})

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        self.refuse_pooler()
        return super().get_new_connection(conn_params)

    def init_connection_state(self) -> None:
        self._applied = None
        super().init_connection_state()

    def create_cursor(self, name: str | None = None) -> Any:
        scope = current_scope()
        if not _owner and scope != self._applied and self.alias != "__no_db__":
            with self.connection.cursor() as cursor:
                cursor.execute(
                    "SELECT set_config('role', %s, false), set_config('atom.tenant', %s, false)",
                    [scope.role, scope.tenant],
                )
            self._applied = scope
        return super().create_cursor(name)

    # A setting made inside a transaction goes back with it; what is applied is then unknown.
    def _rollback(self) -> Any:
        self._applied = None
        return super()._rollback()  # type: ignore[misc]

    def _savepoint_rollback(self, sid: str) -> None:
        # Not by way of `create_cursor`: after an error the transaction takes no statement but this one.
        with self.connection.cursor() as cursor:
            cursor.execute(self.ops.savepoint_rollback_sql(sid))
        self._applied = None
