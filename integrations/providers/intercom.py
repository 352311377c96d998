"""Intercom's REST API: teammates, teams, contacts, companies, conversations and what was said in them, tickets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

from integrations.errors import AccessDenied, CursorExpired, ProviderError, RequestRejected, Throttled, Unavailable
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    ONE_PAGE,
    Account,
    Clock,
    Context,
    Entity,
    Estimate,
    Graph,
    OAuth,
    Page,
    Partition,
    Provider,
    Question,
    RateBudget,
    RateState,
    Record,
    Relationship,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import domain_key, email_key, mentioned_emails

VERSION = "2.14"
API, APP = "https://api.intercom.io", "https://app.intercom.com"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS = 2 * 86_400  # what a workspace's time zone and whole days can be off, in seconds
_CONVERSATIONS_AT_ONCE = 5
_TAG = re.compile(r"<[^>]*>")


class _Gone(AccessDenied):
    """What was listed a moment ago and is deleted now."""


# -- wire format --------------------------------------------------------------------------------------------------------------


def _host(root: str, facts: Mapping[str, Any]) -> str:
    """The region's host: https://api.eu.intercom.io, https://app.au.intercom.com."""
    region = facts.get("region")
    return root.replace(".intercom.", f".{region}.intercom.") if region in ("eu", "au") and root in (API, APP) else root


def _time(value: Any) -> datetime:
    return datetime.fromtimestamp(int(value), UTC)


def _reset(reply: Reply) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(reply.headers["x-ratelimit-reset"]), UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        return None


def _classify(reply: Reply) -> ProviderError | None:
    errors = reply.data.get("errors") if isinstance(reply.data, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code, message = str(first.get("code", "")), str(first.get("message", ""))[:300]
    if reply.status == 429:
        return Throttled("Intercom's rate limit is used up.", reply.retry_at() or _reset(reply) or _later(10))
    if code == "scroll_exists":
        return Unavailable("Intercom lets companies be listed once at a time.", _later(60))
    if code == "api_plan_restricted":
        return AccessDenied("Intercom does not offer this on the workspace's plan.")
    if reply.status == 404:
        return _Gone(f"Intercom does not have it (any more): {message or 'not found'}")
    if reply.status == 403:
        return AccessDenied(f"Intercom does not let this connection read it: {message or 'permission missing'}")
    return None


def _later(seconds: int) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _rate_state(reply: Reply) -> RateState | None:
    try:
        left, limit = int(reply.headers["x-ratelimit-remaining"]), int(reply.headers["x-ratelimit-limit"])
    except (KeyError, ValueError):
        return None
    # The limit is a minute's, dealt out in windows of ten seconds; only what is left of the window is sure.
    return RateState(left, None, _reset(reply)) if left < limit else None


def _records(rows: Iterable[JSON], time_key: str, **more: Any) -> tuple[list[Record], list[tuple[str, Any, str]]]:
    records, rejected = [], []
    for row in rows:
        try:
            moment = _time(row[time_key]) if time_key else _EPOCH
            records.append(Record(str(row["id"]), moment, {**row, **more}))
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            rejected.append((str(row.get("id", "")), row, f"no usable id or time: {type(error).__name__} {error}"))
    return records, rejected


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _query(window: Window, slack: int, *, bounded: bool = True) -> JSON:
    """Whole seconds, edges included by some objects and not by others, days by contacts: wider by `slack`, filtered later."""
    since, until = int(window.since.timestamp()), int(window.until.timestamp())
    edges = [(">", since - slack), ("<", until + slack)] if bounded else [(">", since - slack)]
    conditions = [{"field": "updated_at", "operator": operator, "value": value} for operator, value in edges]
    return {"operator": "AND", "value": conditions}


async def _search(api: Api, name: str, query: JSON, by: str, per_page: int, cursor: JSON | None) -> JSON:
    after = {"starting_after": cursor["after"]} if cursor else {}
    body = {"query": query, "sort": {"field": by, "order": "ascending"}, "pagination": {"per_page": per_page, **after}}
    try:
        return (await api.request("POST", f"/{name}/search", json=body)).data
    except RequestRejected:
        if cursor:
            raise CursorExpired("Intercom no longer knows the page; going on by date.") from None
        raise


def _cursor(data: JSON) -> JSON | None:
    following = (data.get("pages") or {}).get("next")
    return {"after": following["starting_after"]} if following else None


def _fetch(name: str, listed: str, slack: int) -> Callable[..., Any]:
    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        data = await _search(api, name, _query(window, slack), "updated_at", 150, cursor)
        records, rejected = _records(data[listed], "updated_at")
        return Page(records, _cursor(data), records[-1].occurred_at if records else None, rejected)

    return fetch


def _count(name: str, slack: int) -> Callable[..., Any]:
    async def count(api: Api, partition: Partition, window: Window) -> Estimate | None:
        data = await _search(api, name, _query(window, slack), "updated_at", 1, None)
        return Estimate(int(data["total_count"]), exact=False)

    return count


async def _fetch_messages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Parts come with their conversation only, the 500 newest of each. A part is as old as its conversation's last update or
    older, so all that were updated since the window's beginning are read, by their age, which no update moves meanwhile."""
    data = await _search(api, "conversations", _query(window, 1, bounded=False), "created_at", 20, cursor)
    records, rejected, rows = [], [], data["conversations"]
    for start in range(0, len(rows), _CONVERSATIONS_AT_ONCE):
        some = [_conversation(api, row["id"]) for row in rows[start : start + _CONVERSATIONS_AT_ONCE]]
        for found in await asyncio.gather(*some, return_exceptions=True):
            if isinstance(found, _Gone):
                continue
            if isinstance(found, BaseException):
                raise found
            parts = (found.get("conversation_parts") or {}).get("conversation_parts") or ()
            good, bad = _records(parts, "created_at", conversation_id=str(found["id"]))
            records += [record for record in good if record.occurred_at in window]
            rejected += bad
    return Page(records, _cursor(data), None, rejected)


async def _conversation(api: Api, conversation_id: Any) -> JSON:
    return (await api.get(f"/conversations/{conversation_id}", {"display_as": "plaintext"})).data


async def _fetch_companies(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """By scroll, as lists end at 10,000. A workspace has one at a time; it ends after a minute and after any error."""
    try:
        data = (await api.get("/companies/scroll", {"scroll_param": cursor["scroll"]} if cursor else None)).data
    except (Unavailable, RequestRejected, _Gone):
        if cursor:
            raise CursorExpired("Intercom's list of companies broke off; beginning again.") from None
        raise
    records, rejected = _records(data["data"], "updated_at")
    # `turn` counts, as the parameter may stay the same from page to page.
    turn = {"scroll": data.get("scroll_param"), "turn": (cursor["turn"] if cursor else 0) + 1}
    return Page(records, turn if data["data"] and data.get("scroll_param") else None, None, rejected)


def _fetch_all(name: str) -> Callable[..., Any]:
    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        records, rejected = _records((await api.get(f"/{name}")).data[name], "")
        return Page(records, None, None, rejected)

    return fetch


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _plain(text: object) -> str:
    """HTML as one line of text."""
    return " ".join(unescape(_TAG.sub(" ", str(text or ""))).split())


def _person(row: JSON, what: str, ns: str, own: JSON | None = None) -> Entity:
    key, shared = f"{ns}:{what}:{row['id']}", email_key(row.get("email"))
    name = row.get("name") or row.get("email") or f"{what.capitalize()} {row['id']}"
    return Entity("person", shared or key, name, own, (key,) if shared else ())


def _facts(row: JSON, *names: str) -> JSON:
    return {name: row[name] for name in names if row.get(name) not in (None, "")}


def _extract_admin(row: JSON, context: Context) -> Graph:
    person = _person(row, "admin", context.namespace, _facts(row, "email", "job_title"))
    teams = row.get("team_ids") or ()
    return Graph([person], [Relationship("part_of", person.key, f"{context.namespace}:team:{team}") for team in teams])


def _extract_team(row: JSON, context: Context) -> Graph:
    return Graph([Entity("group", f"{context.namespace}:team:{row['id']}", row.get("name") or "Team", {})], [])


def _extract_contact(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    person = _person(row, "contact", ns, _facts(row, "email", "phone", "role", "external_id"))
    said = [
        Relationship("works_at", person.key, f"{ns}:company:{c['id']}")
        for c in (row.get("companies") or {}).get("data") or ()
    ]
    if row.get("owner_id"):
        said.append(Relationship("owned_by", person.key, f"{ns}:admin:{row['owner_id']}"))
    return Graph([person], said)


def _extract_company(row: JSON, context: Context) -> Graph:
    own, domain = f"{context.namespace}:company:{row['id']}", domain_key(row.get("website"))
    facts = _facts(row, "company_id", "website", "industry", "size", "monthly_spend")
    name = row.get("name") or row.get("company_id") or "Company"
    return Graph([Entity("organization", domain or own, name, facts, (own,) if domain else ())], [])


def _links(own: Entity, row: JSON, ns: str, text: str) -> Graph:
    """What conversations, tickets and messages have in common: who, whose turn it is, what is mentioned."""
    entities, said = [own], []
    author = row.get("author") or {}
    # Bots are nobody; "team" writes when an admin replies in its name.
    what = {"admin": "admin", "user": "contact", "lead": "contact", "contact": "contact"}.get(author.get("type", ""))
    if what and author.get("id"):
        person = _person(author, what, ns)
        entities.append(person)
        said.append(Relationship("authored", person.key, own.key))
    for contact in (row.get("contacts") or {}).get("contacts") or ():
        said.append(Relationship("raised_by", own.key, f"{ns}:contact:{contact['id']}"))
    # Nobody is null in some places and 0 in others; ids are numbers or texts.
    for who in ("admin", "team"):
        if str(row.get(f"{who}_assignee_id") or "0") != "0":
            said.append(Relationship("assigned_to", own.key, f"{ns}:{who}:{row[f'{who}_assignee_id']}"))
    said.extend(Relationship("mentions", own.key, key) for key in mentioned_emails(text))
    return Graph(entities, said)


def _extract_conversation(row: JSON, context: Context) -> Graph:
    ns, source = context.namespace, row.get("source") or {}
    text = _plain(source.get("body"))
    name = _plain(row.get("title") or source.get("subject")) or text or f"Conversation {row['id']}"
    facts = {**_facts(row, "state", "priority"), **_facts(source, "delivered_as")}
    own = Entity("case", f"{ns}:conversation:{row['id']}", name[:200], facts)
    return _links(own, {**row, "author": source.get("author")}, ns, text)


def _extract_message(row: JSON, context: Context) -> Graph:
    ns, text, what = context.namespace, _plain(row.get("body")), str(row.get("part_type") or "event").replace("_", " ")
    own = Entity(
        "message" if text else "event", f"{ns}:message:{row['id']}", text[:120] or what.capitalize(), {"type": what}
    )
    graph = _links(own, row, ns, text)
    graph.relationships.append(Relationship("part_of", own.key, f"{ns}:conversation:{row['conversation_id']}"))
    to = row.get("assigned_to") or {}
    if to.get("type") in ("admin", "team") and to.get("id"):
        graph.relationships.append(Relationship("about", own.key, f"{ns}:{to['type']}:{to['id']}"))
    return graph


def _extract_ticket(row: JSON, context: Context) -> Graph:
    ns, attributes = context.namespace, row.get("ticket_attributes") or {}
    text = _plain(attributes.get("_default_description_"))
    state = row.get("ticket_state")
    facts = {
        **_facts(row, "ticket_id", "category", "open"),
        "state": state.get("category") if isinstance(state, dict) else state,
    }
    name = _plain(attributes.get("_default_title_")) or f"Ticket {row.get('ticket_id') or row['id']}"
    graph = _links(Entity("ticket", f"{ns}:ticket:{row['id']}", name[:200], facts), row, ns, text)
    for other in (row.get("linked_objects") or {}).get("data") or ():
        if other.get("type") in ("conversation", "ticket"):
            graph.relationships.append(
                Relationship("about", f"{ns}:ticket:{row['id']}", f"{ns}:{other['type']}:{other['id']}")
            )
    return graph


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    """The workspace. Its region is where it says, however one got there."""
    app = (await api.get("/me")).data["app"]
    region = str(app.get("region") or "").lower()
    return Account(
        str(app["id_code"]), str(app.get("name") or app["id_code"]), None, {"region": region} if region else {}
    )


async def _revoke(grant: Revocation) -> None:
    await grant.api.request("POST", "/auth/uninstall", headers={"Authorization": f"Bearer {grant.access_token}"})


INTERCOM = Provider(
    slug="intercom",
    name="Intercom",
    category="Support",
    summary="What customers ask and who answers: contacts, companies, conversations, every message, and tickets.",
    brings=("Contacts", "Companies", "Conversations", "Messages", "Tickets", "Teammates"),
    api_url=API,
    auth_url=APP,
    api_root=_host,
    auth_root=_host,
    asks=(Question("region", "Region", "Where the workspace's data lives: us, eu or au.", "us|eu|au", "us", "us"),),
    headers={"Accept": "application/json", "Intercom-Version": VERSION},
    identify=_identify,
    classify=_classify,
    rate_state=_rate_state,
    budget=RateBudget(requests=1600, seconds=10, concurrency=6),
    # Scopes are ticked at the app in Intercom's developer hub; tokens neither expire nor are refreshed.
    oauth=OAuth("/oauth", "/auth/eagle/token", (), revoke=_revoke, token_root=API, token_root_of=_host, pkce=False),
    token_help="The access token of an app in Intercom's developer hub that may read users, companies, conversations, admins and tickets.",
    settle=timedelta(minutes=5),
    ids_by_account=True,
    streams=(
        Stream("admins", "Teammates", WindowKind.SNAPSHOT, _fetch_all("admins"), _extract_admin, needs=("read admins",), page_size=ONE_PAGE),
        Stream("teams", "Teams", WindowKind.SNAPSHOT, _fetch_all("teams"), _extract_team, needs=("read admins",), page_size=ONE_PAGE),
        Stream("companies", "Companies", WindowKind.SNAPSHOT, _fetch_companies, _extract_company, needs=("read users and companies",)),
        Stream("contacts", "Contacts", WindowKind.DAY, _fetch("contacts", "data", _DAYS), _extract_contact, _count("contacts", _DAYS),
            needs=("read users and companies",), page_size=150),
        Stream("conversations", "Conversations", WindowKind.EXACT, _fetch("conversations", "conversations", 1), _extract_conversation,
            _count("conversations", 1), needs=("read conversations",), page_size=150),
        Stream("messages", "Messages", WindowKind.SCAN, _fetch_messages, _extract_message, ascending=False,
            needs=("read conversations",), page_size=20, clock=Clock.CREATED),
        Stream("tickets", "Tickets", WindowKind.EXACT, _fetch("tickets", "tickets", 1), _extract_ticket, _count("tickets", 1),
            needs=("read tickets",), page_size=150),
    ),
)  # fmt: skip
