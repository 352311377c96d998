"""Takes a tenant out of the deployment, with all that is its (`manage.py delete_tenant`).

Each step makes the next one final, and all can be done again, so it may end anywhere and goes on when it is run again:

    nobody comes in         API keys, members, and accounts that are of no other workspace
    nothing starts          connections are given up, and what providers granted is taken back where they let us
    nobody writes           imports are cancelled, and what workers have in hand is taken from them: their pages are refused (`storage.py`)
    what there is goes      table by table, each from its beginning to its end in transactions of a bounded size
    the tenant's row goes   which the database refuses while anything refers to it: then something came in meanwhile, and all is done again

Foreign keys of the largest tables are not checked by the database (`graph_models.py`). These go last, when there is no connection left
that anybody could write to them for; while one came in the tenant's row stays.

Why each table is read as a whole, and what else was thought of: docs/decisions/0012-offboarding.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from graphlib import TopologicalSorter
from typing import Any

from django.apps import apps
from django.db import IntegrityError, models, transaction
from django.db import connection as database

from atom import members
from atom.access import Actor, system_actor
from atom.db.giving_way import again_after_giving_way
from atom.errors import Refused
from atom.models import AuditEvent, Tenant
from atom.tenancy import across_tenants, tenant_scope
from atom.words import plural
from historical_sync import actions, states
from historical_sync.models import Entity, HistoricalSyncJob, StaleEntity, SyncChunk, SyncRecord, SyncSchedule
from historical_sync.searching import NameBacklog
from historical_sync.settling import settle_sync
from integrations.connect import connections_of
from integrations.disconnecting import disconnect
from integrations.models import Connection, ConnectionStatus

log = logging.getLogger(__name__)

BLOCKS_AT_ONCE = 1000  # of a table: 8 MB of it, which its rows' larger values lie beside
ROUNDS = 5
WHO = "command line"

# Of the tables that the database checks no keys of, these first: while there are records, who takes out what they said finds more that is
# stale; while anything is stale, who tidies writes entities; and who indexes names does while any wait.
FIRST_UNCHECKED = (SyncRecord, StaleEntity, NameBacklog, Entity)

Say = Callable[[str], None]
Model = type[models.Model]


def owned() -> list[Model]:
    """Every table of what belongs to tenants, in the order in which they can be emptied."""
    found = [m for m in apps.get_models() if m._meta.managed and any(f.name == "tenant" for f in m._meta.fields)]
    order: TopologicalSorter[Model] = TopologicalSorter(dict.fromkeys(found, ()))
    for model in found:
        for field in filter(_is_checked, model._meta.fields):
            if field.related_model in found:
                order.add(field.related_model, model)
    checked = [model for model in order.static_order() if _is_checked(model._meta.get_field("tenant"))]
    rank = {model: number for number, model in enumerate(FIRST_UNCHECKED)}
    return checked + sorted(set(found) - set(checked), key=lambda m: (rank.get(m, len(rank)), m._meta.db_table))


def _is_checked(field: Any) -> bool:
    """Whether it is a foreign key that the database checks."""
    return isinstance(field, models.ForeignKey) and bool(getattr(field, "db_constraint", True))


def belongings(tenant: Tenant) -> list[str]:
    """What there is of the tenant's, in words: how many of each."""
    with tenant_scope(tenant.id):
        counted = [(model, model._base_manager.filter(tenant=tenant).count()) for model in owned()]
    found = [_words(model, count) for model, count in counted if count]
    with across_tenants("what belongs to a tenant beside its tables"), database.cursor() as cursor:
        people = members.accounts_that_end_with(tenant).count()
        cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE args->>'tenant_id' = %s", [str(tenant.id)])
        row = cursor.fetchone()
    if people:
        found.append(
            plural(
                people, "account of one who is in no other workspace,accounts of people who are in no other workspace"
            )
        )
    if row and row[0]:
        found.append(plural(row[0], "entry of the queue,entries of the queue"))
    return found


def _words(model: Model, count: int) -> str:
    return plural(count, f"{model._meta.verbose_name},{model._meta.verbose_name_plural}")


def delete(tenant: Tenant, say: Say, warn: Say) -> None:
    """Deletes all of it. say: what is done; warn: what providers go on to honour. Raises Refused when more came in again and again."""
    for _ in range(ROUNDS):
        try:
            _let_nobody_in(tenant, say)
            _give_up_access(tenant, warn)
            _stop_imports(tenant)
            for model in owned():
                if gone := _empty(model, tenant):
                    say(f"deleted {_words(model, gone)}")
            _delete_row(tenant)
        except IntegrityError as error:
            log.info("something of tenant %s came in while it was deleted: %s", tenant.id, error)
        else:
            return
    raise Refused("invalid_state", f"Something goes on to add to {tenant}. What there was is deleted; run it again.")


def _let_nobody_in(tenant: Tenant, say: Say) -> None:
    with across_tenants("accounts and what they did elsewhere"):
        accounts = members.end_all_access(tenant)
    if accounts:
        say(f"deleted {plural(accounts, 'account,accounts')}")


def _give_up_access(tenant: Tenant, warn: Say) -> None:
    actor = system_actor(tenant, WHO)
    with tenant_scope(tenant.id):
        SyncSchedule.objects.filter(tenant=tenant).delete()
        for row in connections_of(tenant).exclude(status=ConnectionStatus.DISCONNECTED):
            try:
                why = disconnect(actor, row)
            except Connection.DoesNotExist:
                continue  # somebody else deletes the tenant as well
            except Exception as error:
                # Whatever a provider does: it must not keep the tenant's data here.
                log.exception("connection %s was not given up in order", row.id)
                why = f"what {row.provider_name} granted could not be taken back: {type(error).__name__}"
            if why:
                warn(f"{row}: {why}.")


def _stop_imports(tenant: Tenant) -> None:
    actor = system_actor(tenant, WHO)
    with tenant_scope(tenant.id):
        for job in actions.jobs_of(tenant).active():
            with suppress(HistoricalSyncJob.DoesNotExist):
                _stop(actor, job)


@again_after_giving_way
@transaction.atomic
def _stop(actor: Actor, job: HistoricalSyncJob) -> None:
    """Cancels the job without waiting for who works on it."""
    with suppress(Refused):  # it ended meanwhile, or is being cancelled
        actions.cancel(actor, job)
    SyncChunk.objects.filter(tenant=actor.tenant, job=job, status=states.CHUNK_RUNNING).update(
        status=states.CHUNK_PENDING, lease=None, lease_until=None
    )
    settle_sync(job.id)


def _empty(model: Model, tenant: Tenant) -> int:
    """Deletes the tenant's rows of a table, from its beginning to its end; how many there were."""
    # The log is the tenant's own to read, not to change.
    scope = across_tenants("the log goes with its tenant") if model is AuditEvent else tenant_scope(tenant.id)
    of_graph = not _is_checked(model._meta.get_field("tenant"))
    table, deleted, block = model._meta.db_table, 0, 0
    with scope:
        with database.cursor() as cursor:
            cursor.execute("SELECT pg_relation_size(%s) / current_setting('block_size')::int", [table])
            row = cursor.fetchone()
        blocks = int(row[0]) if row else 0
        while block < blocks:
            deleted += _delete_part(table, tenant, block, of_graph)
            block += BLOCKS_AT_ONCE
    return deleted


@again_after_giving_way
@transaction.atomic
def _delete_part(table: str, tenant: Tenant, block: int, of_graph: bool) -> int:
    with database.cursor() as cursor:
        if of_graph:  # waits for who is at it, as `tidying.alone`: what they leave behind is there to be deleted
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('graph ' || %s, 0))", [str(tenant.id)])
        cursor.execute(
            f"DELETE FROM {table} WHERE ctid >= '({block},0)'::tid AND ctid < '({block + BLOCKS_AT_ONCE},0)'::tid AND tenant_id = %s",  # noqa: S608 - a table of this project's own
            [tenant.id],
        )
        return int(cursor.rowcount)


@transaction.atomic
def _delete_row(tenant: Tenant) -> None:
    """The last of it. Raises IntegrityError, at the transaction's end, when something came in meanwhile."""
    with across_tenants("a tenant ends"), database.cursor() as cursor:
        # Not what a worker has in hand: it finds nothing to do, and takes that entry out itself.
        cursor.execute(
            "DELETE FROM procrastinate_jobs WHERE args->>'tenant_id' = %s AND status <> 'doing'", [str(tenant.id)]
        )
        cursor.execute("DELETE FROM atom_tenant WHERE id = %s", [tenant.id])
