"""Entities as records tell of them: people, organizations, facts and names."""

from __future__ import annotations

from datetime import datetime, timedelta

from integrations.providers.base import JSON, Entity, Graph
from integrations.providers.text import domain_key, email_key
from integrations.providers.wire import EPOCH


def person(
    own_key: str, name: object, email: object, properties: JSON | None = None, handles: tuple[str, ...] = ()
) -> Entity:
    """A person by their address, if there is one, with the vendor's id as alias; by the id otherwise."""
    key = email_key(email)
    called = str(name or "").strip() or (key.rpartition(":")[2] if key else own_key.rpartition(":")[2])
    return Entity("person", key or own_key, called, properties, (own_key,) if key else (), handles)


def organization(own_key: str, name: object, websites: object, properties: JSON | None = None) -> Entity:
    """An organization by the domain of its web site, if it has one of its own, with the vendor's id as alias.

    websites: an address or a domain, or several, of which the first is the key and the others are aliases too.
    """
    several = websites if isinstance(websites, list) else (websites,)
    key, *aliases = dict.fromkeys([*filter(None, map(domain_key, several)), own_key])
    called = str(name or "").strip() or key.rpartition(":")[2]
    return Entity("organization", key, called, properties, tuple(aliases))


def besides(own: Entity, at: datetime) -> Graph:
    """What a record says of a thing that has a record of its own, which knows it by itself: so this one is dated before that.

    at: the record's time.
    """
    said = Graph(own._replace(properties={}))
    said.later = (EPOCH - at) // timedelta(microseconds=1)
    return said


def facts(row: JSON, *names: str, deleted: object = False, **more: object) -> JSON:
    """These of the row's fields, and what else is given, as far as they have a value; and whether it is deleted."""
    found: JSON = {}
    for name in names:
        value = row.get(name)
        if value is not None and value != "":
            found[name] = value
    for name, value in more.items():
        if value is not None and value != "":
            found[name] = value
    if deleted:
        found["deleted"] = True
    return found


def headline(text: str | None, otherwise: str, most: int = 120) -> str:
    """The text's first line as a name; `otherwise` where there is none."""
    return (text or "").strip().partition("\n")[0].strip()[:most] or otherwise
