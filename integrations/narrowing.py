"""Which parts of an account are imported: all, or some of what the provider lists its streams by (repositories, channels)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from asgiref.sync import async_to_sync
from django.db import transaction

from atom import audit
from atom.access import Actor
from atom.db.giving_way import again_after_giving_way
from atom.errors import InvalidInput, Refused
from atom.turns import turn
from integrations import gateway
from integrations.errors import UNMAPPABLE, ProviderError
from integrations.models import Connection
from integrations.providers.base import Partition, Provider

# What other packages do when a narrowed connection is to bring more than before; they fill these in when they are ready.
widened_hooks: list[Callable[[Connection], None]] = []

MOST_NAMES = 10_000
NOT_ITS_OWN = "gave an answer that is not its own."
TIMEOUT = 30.0  # seconds to list an account's partitions while somebody waits


class Listed(NamedTuple):
    """Partitions by name; and in words what the provider left out, of which there may be more."""

    parts: list[Partition]
    left_out: Sequence[str]


def parts_of(connection: Connection) -> list[Partition]:
    """All partitions of the connection's account that are listed, as `listed` has them."""
    return listed(connection).parts


def listed(connection: Connection) -> Listed:
    """All partitions of the connection's account, whether they are imported or not; [] where there are none.

    Asks the provider. Raises Refused when it does not answer, with the provider's error code, and when too much of the tenant's waits.
    """
    provider = connection.provider
    if provider.partitions is None:
        return Listed([], [])

    async def call() -> Listed:
        async with asyncio.timeout(TIMEOUT), gateway.visit_api(connection) as api:
            return Listed(await gateway.partitions_to_choose(provider, api), api.notices)

    try:
        with turn(connection.tenant_id):
            found = async_to_sync(call)()
    except ProviderError as error:
        raise Refused(error.code, str(error)) from None
    except TimeoutError:
        raise Refused("provider_unavailable", f"{provider.name} takes too long to answer.") from None
    except UNMAPPABLE:
        raise Refused("provider_unavailable", f"{provider.name} {NOT_ITS_OWN}") from None
    return found._replace(parts=sorted(found.parts, key=lambda part: part.label.lower()))


def resolve(provider: Provider, parts: Iterable[Partition], names: Sequence[str]) -> list[str]:
    """Keys of the partitions that a person named, by key or label. Raises InvalidInput (only) for a name that is none."""
    what = provider.partition_label.lower() or "parts"
    if provider.partitions is None:
        raise InvalidInput("invalid", f"{provider.name} can't be narrowed to parts.", "only")
    if not names or len(names) > MOST_NAMES:
        raise InvalidInput("invalid", f"Name between one and {MOST_NAMES:,} {what}.", "only")
    known: dict[str, str] = {}
    for part in parts:
        known.setdefault(part.label.lower(), part.key)
    known |= {part.key.lower(): part.key for part in parts}
    unknown = [name for name in names if name.strip().lower() not in known]
    if unknown:
        shown = ", ".join(name[:100] for name in unknown[:5])
        raise InvalidInput("invalid", f"{provider.name} has no such {what} that this account can read: {shown}", "only")
    return list(dict.fromkeys(known[name.strip().lower()] for name in names))


def narrow(
    actor: Actor, connection: Connection, names: Sequence[str] | None, parts: Sequence[Partition] | None = None
) -> Connection:
    """Narrows the connection to these partitions (keys or labels), or to none in particular: None imports everything.

    parts: all that there are, where the provider was asked just now. What was imported stays. Holds from the next import on. Raises
    InvalidInput (only) and Refused.
    """
    only = None
    if names is not None:
        only = resolve(connection.provider, parts_of(connection) if parts is None else parts, names)
    return _choose(actor, connection, only)


@again_after_giving_way
@transaction.atomic
def _choose(actor: Actor, connection: Connection, only: list[str] | None) -> Connection:
    row = Connection.objects.of(actor.tenant).select_for_update().get(id=connection.id)
    former, row.only = row.only, only
    row.save(update_fields=["only", "updated_at"])
    widened(row, former)
    detail = "everything" if only is None else f"{len(only)} of the {row.provider.partition_label.lower() or 'parts'}"
    audit.record(row.tenant_id, actor.label, "connection.narrowed", str(row), detail)
    return row


def widened(connection: Connection, former: Sequence[str] | None) -> None:
    """Tells who wants to know that the connection's choice holds what the `former` one did not, if so. It is saved by now."""
    if former is None or (connection.only is not None and set(connection.only) <= set(former)):
        return
    for hook in widened_hooks:
        hook(connection)
