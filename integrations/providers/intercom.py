"""Intercom's REST API: teammates, teams, contacts, companies, conversations and what was said in them, tickets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Gone,
    ProviderError,
    RequestRejected,
    Throttled,
    Unavailable,
)
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    ONE_PAGE,
    Account,
    Clock,
    Context,
    Entity,
    Estimate,
    Extract,
    Fetch,
    Graph,
    OAuth,
    Page,
    Partition,
    Provider,
    Question,
    RateBudget,
    RateState,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts, organization, person
from integrations.providers.replies import ErrorTable, Means, body, error_in, inner, rate_headers, reset_of
from integrations.providers.text import mentioned_emails, one_line
from integrations.providers.wire import Rows, epoch, listing, page, pages, reader

VERSION = "2.14"
API, APP = "https://api.intercom.io", "https://app.intercom.com"
_DAYS = 2 * 86_400  # what a workspace's time zone and whole days can be off, in seconds
_CONVERSATIONS_AT_ONCE = 5

# -- wire format --------------------------------------------------------------------------------------------------------------


def _host(root: str, facts: Mapping[str, Any]) -> str:
    """The region's host: https://api.eu.intercom.io, https://app.au.intercom.com."""
    region = facts.get("region")
    return root.replace(".intercom.", f".{region}.intercom.") if region in ("eu", "au") and root in (API, APP) else root


_DENIED = Means(AccessDenied, "Intercom does not let this connection read it: {said}")
_ERRORS: ErrorTable = {
    # The latter with status 401: the token is good, but lacks the permission.
    **dict.fromkeys((403, "token_unauthorized"), _DENIED),
    404: Means(Gone, "Intercom does not have it (any more): {said}"),
    "scroll_exists": Means(Unavailable, "Intercom lets companies be listed once at a time.", wait=60),
    "api_plan_restricted": Means(AccessDenied, "Intercom does not offer this on the workspace's plan."),
}


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status == 429:
        reset = reset_of(reply)
        at = reply.by_our_clock(reset) if reset else datetime.now(UTC) + timedelta(seconds=10)
        return Throttled("Intercom's rate limit is used up.", reply.retry_at() or at)
    first = inner(body(reply), "errors")
    return error_in(_ERRORS, reply, str(first.get("code", "")), first.get("message"))


_told = rate_headers()


def _rate_state(reply: Reply) -> RateState | None:
    """The limit is a minute's, dealt out in windows of ten seconds; only what is left of the window is sure."""
    told = _told(reply)
    return RateState(told.remaining, None, told.reset_at) if told and told.remaining < (told.limit or 0) else None


_UPDATED = reader("id", lambda row: epoch(row["updated_at"]))
_CREATED = reader("id", lambda row: epoch(row["created_at"]))

# -- fetching -----------------------------------------------------------------------------------------------------------------


def _query(window: Window, slack: int, ends: str = "updated_at") -> JSON:
    """Whole seconds, edges included by some objects and not by others, days by contacts: wider by `slack`, filtered later.

    ends: the field that is before the window's end.
    """
    since, until = int(window.since.timestamp()), int(window.until.timestamp())
    edges = [("updated_at", ">", since - slack), (ends, "<", until + slack)]
    return {
        "operator": "AND",
        "value": [{"field": field, "operator": operator, "value": value} for field, operator, value in edges],
    }


async def _search(api: Api, name: str, query: JSON, by: str, per_page: int, cursor: JSON | None) -> JSON:
    after = {"starting_after": cursor["after"]} if cursor else {}
    asked = {"query": query, "sort": {"field": by, "order": "ascending"}, "pagination": {"per_page": per_page, **after}}
    try:
        return (await api.request("POST", f"/{name}/search", json=asked)).data
    except RequestRejected:
        if cursor:
            raise CursorExpired("Intercom no longer knows the page; going on by date.") from None
        raise


def _next(data: JSON) -> JSON | None:
    following = (data.get("pages") or {}).get("next")
    return {"after": following["starting_after"]} if following else None


async def _found(name: str, slack: int, api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    data = await _search(api, name, _query(window, slack), "updated_at", 150, cursor)
    return data["data" if name == "contacts" else name], _next(data)


async def _count(name: str, slack: int, api: Api, partition: Partition, window: Window) -> Estimate | None:
    data = await _search(api, name, _query(window, slack), "updated_at", 1, None)
    return Estimate(int(data["total_count"]), exact=False)


async def _fetch_messages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Parts come with their conversation only, the 500 newest of each. A part is as old as its conversation's last update or
    older, and no older than the conversation, so all are read that were updated since the window's beginning and made before its end,
    by their age, which no update moves meanwhile."""
    data = await _search(api, "conversations", _query(window, 1, "created_at"), "created_at", 20, cursor)
    rows, parts = data["conversations"], []
    for start in range(0, len(rows), _CONVERSATIONS_AT_ONCE):
        some = [_parts(api, row["id"]) for row in rows[start : start + _CONVERSATIONS_AT_ONCE]]
        for found in await asyncio.gather(*some, return_exceptions=True):
            if isinstance(found, BaseException) and not isinstance(found, Gone):
                raise found
            parts += [] if isinstance(found, BaseException) else found
    # Those of other times as well: what is wanted the engine knows, and pages that bring nothing are taken for ones without end.
    return page(parts, _CREATED, _next(data))


async def _parts(api: Api, conversation_id: Any) -> list[JSON]:
    row = (await api.get(f"/conversations/{conversation_id}", {"display_as": "plaintext"})).data
    parts = (row.get("conversation_parts") or {}).get("conversation_parts") or ()
    return [{**part, "conversation_id": str(row["id"])} for part in parts]


async def _companies(api: Api, cursor: JSON | None) -> Rows:
    """By scroll, as lists end at 10,000. A workspace has one at a time; it ends after a minute and after any error."""
    try:
        data = (await api.get("/companies/scroll", {"scroll_param": cursor["scroll"]} if cursor else None)).data
    except (Unavailable, RequestRejected, Gone):
        if cursor:
            raise CursorExpired("Intercom's list of companies broke off; beginning again.") from None
        raise
    # `turn` counts, as the parameter may stay the same from page to page.
    turn = {"scroll": data.get("scroll_param"), "turn": (cursor["turn"] if cursor else 0) + 1}
    return data["data"], turn if data["data"] and data.get("scroll_param") else None


async def _all(name: str, api: Api, cursor: JSON | None) -> Rows:
    return (await api.get(f"/{name}")).data[name], None


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _name(row: JSON, what: str) -> str:
    return row.get("name") or row.get("email") or f"{what.capitalize()} {row['id']}"


def _person(row: JSON, what: str, context: Context, known: JSON | None = None) -> Entity:
    return person(context.key(what, row["id"]), _name(row, what), row.get("email"), known)


def _extract_admin(row: JSON, context: Context) -> Graph:
    said = Graph(_person(row, "admin", context, facts(row, "email", "job_title")))
    said.refer("part_of", context.keys("team", *row.get("team_ids") or ()))
    return said


def _extract_team(row: JSON, context: Context) -> Graph:
    return Graph(Entity("group", context.key("team", row["id"]), row.get("name") or "Team", {}))


def _extract_contact(row: JSON, context: Context) -> Graph:
    said = Graph(_person(row, "contact", context, facts(row, "email", "phone", "role", "external_id")))
    companies = (row.get("companies") or {}).get("data") or ()
    said.refer("works_at", context.keys("company", *(company["id"] for company in companies)))
    said.refer("owned_by", context.keys("admin", row.get("owner_id")))
    return said


def _extract_company(row: JSON, context: Context) -> Graph:
    known = facts(row, "company_id", "website", "industry", "size", "monthly_spend")
    name = row.get("name") or row.get("company_id") or "Company"
    return Graph(organization(context.key("company", row["id"]), name, row.get("website"), known))


def _said(own: Entity, row: JSON, author: JSON | None, text: str, context: Context) -> Graph:
    """What conversations, tickets and messages have in common: who, whose turn it is, what is mentioned."""
    said = Graph(own)
    # "team" writes when an admin replies in its name.
    if author and author.get("id"):
        kind = author.get("type")
        if kind == "bot" or author.get("from_ai_agent"):
            # Conversations are assigned to it by this id as to a teammate.
            said.by("authored", Entity("bot", context.key("admin", author["id"]), author.get("name") or "Bot"))
        elif kind == "admin":
            said.by("authored", _person(author, kind, context))
        elif kind in ("user", "lead", "contact"):
            # Which address a contact has, only their own record says: this one is not read again when a wrong one is put right.
            said.by("authored", Entity("person", context.key("contact", author["id"]), _name(author, "contact")))
    contacts = (row.get("contacts") or {}).get("contacts") or ()
    said.refer("raised_by", context.keys("contact", *(contact["id"] for contact in contacts)))
    for who in ("admin", "team"):  # nobody is null in some places and 0 in others; ids are numbers or texts
        assignee = str(row.get(f"{who}_assignee_id") or "0")
        said.refer("assigned_to", context.keys(who, assignee if assignee != "0" else None))
    said.refer("mentions", mentioned_emails(text))
    return said


def _extract_conversation(row: JSON, context: Context) -> Graph:
    source = row.get("source") or {}
    text = one_line(source.get("body"))
    name = one_line(row.get("title") or source.get("subject")) or text or f"Conversation {row['id']}"
    known = facts(row, "state", "priority", delivered_as=source.get("delivered_as"))
    own = Entity("case", context.key("conversation", row["id"]), name[:200], known)
    return _said(own, row, source.get("author"), text, context)


def _extract_message(row: JSON, context: Context) -> Graph:
    text, what = one_line(row.get("body")), str(row.get("part_type") or "event").replace("_", " ")
    kind, name = "message" if text else "event", text[:120] or what.capitalize()
    own = Entity(kind, context.key("message", row["id"]), name, {"type": what})
    said = _said(own, row, row.get("author"), text, context)
    said.refer("part_of", context.keys("conversation", row["conversation_id"]))
    to = row.get("assigned_to") or {}
    said.refer("about", context.keys(to["type"], to.get("id")) if to.get("type") in ("admin", "team") else ())
    return said


def _extract_ticket(row: JSON, context: Context) -> Graph:
    attributes, state = row.get("ticket_attributes") or {}, row.get("ticket_state")
    name = one_line(attributes.get("_default_title_")) or f"Ticket {row.get('ticket_id') or row['id']}"
    known = facts(row, "ticket_id", "category", "open")
    known["state"] = state.get("category") if isinstance(state, dict) else state
    own = Entity("ticket", context.key("ticket", row["id"]), name[:200], known)
    said = _said(own, row, row.get("author"), one_line(attributes.get("_default_description_")), context)
    for other in (row.get("linked_objects") or {}).get("data") or ():
        if other.get("type") in ("conversation", "ticket"):
            said.refer("about", context.keys(other["type"], other["id"]))
    return said


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    """The workspace. Its region is where it says, however one got there."""
    app = (await api.get("/me")).data["app"]
    region = str(app.get("region") or "").lower()
    facts = {"region": region} if region else {}
    return Account(str(app["id_code"]), str(app.get("name") or app["id_code"]), None, facts)


async def _revoke(grant: Revocation) -> None:
    """Takes the app out of the workspace, with whatever tokens its people gave it."""
    await grant.api.request("POST", "/auth/uninstall", headers={"Authorization": f"Bearer {grant.access_token}"})


def _searched(name: str, label: str, kind: WindowKind, slack: int, extract: Extract, needs: str) -> Stream:
    fetch, count = pages(partial(_found, name, slack), _UPDATED, max), partial(_count, name, slack)
    return Stream(name, label, kind, fetch, extract, count, needs=(needs,), page_size=150, record=_UPDATED)


def _whole(name: str) -> Fetch:
    return listing(partial(_all, name), reader())


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
    oauth=OAuth(
        "/oauth", "/auth/eagle/token", (), revoke=_revoke, revokes_all=True, token_root=API, token_root_of=_host, pkce=False,
    ),
    token_help="The access token of an app in Intercom's developer hub that may read users, companies, conversations, admins and tickets.",
    settle=timedelta(minutes=5),
    ids_by_account=True,
    streams=(
        Stream(
            "admins", "Teammates", WindowKind.SNAPSHOT, _whole("admins"), _extract_admin, needs=("read admins",),
            page_size=ONE_PAGE,
        ),
        Stream(
            "teams", "Teams", WindowKind.SNAPSHOT, _whole("teams"), _extract_team, needs=("read admins",),
            page_size=ONE_PAGE,
        ),
        Stream(
            "companies", "Companies", WindowKind.SNAPSHOT, listing(_companies, _UPDATED), _extract_company,
            needs=("read users and companies",), record=_UPDATED,
        ),
        _searched("contacts", "Contacts", WindowKind.DAY, _DAYS, _extract_contact, "read users and companies"),
        _searched("conversations", "Conversations", WindowKind.EXACT, 1, _extract_conversation, "read conversations"),
        Stream("messages", "Messages", WindowKind.SCAN, _fetch_messages, _extract_message, ascending=False,
            needs=("read conversations",), page_size=20, clock=Clock.CREATED),
        _searched("tickets", "Tickets", WindowKind.EXACT, 1, _extract_ticket, "read tickets"),
    ),
)  # fmt: skip
