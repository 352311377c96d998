"""HubSpot's CRM API: contacts, companies, deals, tickets, what was done about them, owners, and what was archived.

Associations come with the object that they begin at, when it has changed. That one more was made changes no time of a call, an e-mail, a
meeting, a note or a task, and no list tells of it: a full import reads them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from integrations.errors import AccessDenied, ProviderError, Throttled, Unavailable
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Context,
    Entity,
    Estimate,
    Graph,
    OAuth,
    Partition,
    Provider,
    RateBudget,
    RateState,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts, person
from integrations.providers.replies import ErrorTable, Means, body, error_in
from integrations.providers.text import domain_key, email_key, mentioned_emails, one_line
from integrations.providers.wire import MILLISECOND, Rows, all_rows, epoch, listing, pages, reader, ticks, utc

OBJECTS, ASSOCIATIONS, OWNERS = "/crm/v3/objects", "/crm/v4/associations", "/crm/v3/owners"
PIPELINES = "/crm/v3/pipelines"
TOKEN = "/oauth/2026-03/token"


class _Type(NamedTuple):
    """An object type. one: in keys and words. title: properties that name it. facts: shown. texts: read for mentions.

    links: associated type -> what the association means (this object is the source).
    """

    one: str
    kind: str
    title: tuple[str, ...]
    facts: tuple[str, ...]
    texts: tuple[str, ...] = ()
    links: Mapping[str, str] = {}
    owner: str = "owned_by"
    more: tuple[str, ...] = ()
    modified: str = "hs_lastmodifieddate"


_ABOUT = {"contacts": "with", "companies": "about", "deals": "about"}
_TYPES = {
    "contacts": _Type(
        "contact", "person", ("firstname", "lastname"), ("email", "phone", "jobtitle", "lifecyclestage"),
        links={"companies": "works_at"}, more=("hs_additional_emails", "hs_merged_object_ids"), modified="lastmodifieddate",
    ),
    "companies": _Type(
        "company", "organization", ("name",), ("domain", "website", "industry", "phone"),
        more=("hs_additional_domains", "hs_merged_object_ids", "hs_parent_company_id"),
    ),
    "deals": _Type(
        "deal", "deal", ("dealname",), ("amount", "deal_currency_code", "dealstage", "pipeline", "closedate"), ("description",),
        {"companies": "for_account", "contacts": "with"}, more=("hs_merged_object_ids",),
    ),
    "tickets": _Type(
        "ticket", "ticket", ("subject",), ("hs_pipeline_stage", "hs_pipeline", "hs_ticket_priority", "closed_date"), ("subject", "content"),
        {"contacts": "raised_by", "companies": "for_account"}, "assigned_to", ("hs_merged_object_ids",),
    ),
    "calls": _Type("call", "event", ("hs_call_title",), ("hs_timestamp", "hs_call_direction"), ("hs_call_body",), _ABOUT),
    "emails": _Type(
        "email", "message", ("hs_email_subject",), ("hs_timestamp", "hs_email_direction"), ("hs_email_text",), _ABOUT,
        more=("hs_email_from_email", "hs_email_to_email", "hs_email_cc_email"),
    ),
    "meetings": _Type(
        "meeting", "event", ("hs_meeting_title",), ("hs_meeting_start_time", "hs_meeting_end_time"), ("hs_meeting_body",), _ABOUT,
    ),
    "notes": _Type("note", "document", ("hs_note_body",), ("hs_timestamp",), ("hs_note_body",), _ABOUT),
    "tasks": _Type(
        "task", "task", ("hs_task_subject",), ("hs_timestamp", "hs_task_status", "hs_task_priority"),
        ("hs_task_subject", "hs_task_body"), _ABOUT, "assigned_to",
    ),
}  # fmt: skip
_NAMES = tuple(_TYPES)
# The properties that hold a pipeline's id and a stage's.
_STAGED = {"deals": ("pipeline", "dealstage"), "tickets": ("hs_pipeline", "hs_pipeline_stage")}
# HubSpot's own kind of association with the one company that is the main one: the customer, where a reseller is associated too.
_PRIMARY = {"contacts": 1, "deals": 5, "tickets": 26}

# -- wire format --------------------------------------------------------------------------------------------------------------

_LOCKED = "HubSpot has locked the account for a moment."
_ERRORS: ErrorTable = {
    423: Means(Unavailable, _LOCKED, wait=2),
    477: Means(Unavailable, _LOCKED, wait=60),  # it is being moved
    "SECONDLY": Means(Throttled, "HubSpot asks to slow down.", wait=1),
    "OTHER": Means(Throttled, "HubSpot asks to slow down.", wait=10),
}


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status == 429:
        policy = str(body(reply).get("policyName", ""))
        if policy == "DAILY":  # until midnight in the portal's time zone, which the reply does not say
            return Throttled("HubSpot's daily limit of API calls is used up.", reply.retry_at(), daily=True)
        return error_in(_ERRORS, reply, policy if policy in _ERRORS else "OTHER")
    if reply.status == 403:
        missing = f" It needs {', '.join(scopes)}." if (scopes := _missing_scopes(body(reply))) else ""
        return AccessDenied(f"HubSpot does not let this connection read it.{missing}")
    return error_in(_ERRORS, reply)


def _missing_scopes(refusal: JSON) -> list[str]:
    errors = [error for error in refusal.get("errors") or () if isinstance(error, dict)]
    contexts = [error["context"] for error in errors if isinstance(error.get("context"), dict)]
    names = ("requiredGranularScopes", "missingScopes")
    return list(dict.fromkeys(str(scope) for one in contexts for name in names for scope in one.get(name) or ()))


def _time(value: object) -> datetime:
    """2025-01-05T12:30:10.250Z, or epoch milliseconds as digits."""
    text = str(value)
    return epoch(text, MILLISECOND) if text.isdigit() else utc(text)


def _rate_state(reply: Reply) -> RateState | None:
    """The ten-second window's headers; searches, which have a limit of their own, carry none."""
    try:
        left, limit, interval = (
            int(reply.headers[f"x-hubspot-ratelimit-{n}"]) for n in ("remaining", "max", "interval-milliseconds")
        )
    except (KeyError, ValueError):
        return None
    return RateState(left, limit, datetime.now(UTC) + interval * MILLISECOND if left == 0 else None)


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _search(name: str, window: Window, after_id: str = "0", limit: int = 200) -> JSON:
    """The body of a search: in the window, by id, from the one after `after_id`.

    HubSpot lists 10,000 results of one search, and a bulk edit gives any number of rows the same millisecond; so each page is a
    search of its own that begins after the last id seen, which also neither repeats nor skips rows that change meanwhile.
    """
    what, (since, until) = _TYPES[name], ticks(window, MILLISECOND)
    wanted = (what.modified, "hs_object_id", "hubspot_owner_id", *what.title, *what.facts, *what.texts, *what.more)
    conditions = ((what.modified, "GTE", since), (what.modified, "LT", until), ("hs_object_id", "GT", after_id))
    return {
        "filterGroups": [{"filters": [{"propertyName": p, "operator": o, "value": str(v)} for p, o, v in conditions]}],
        "sorts": [{"propertyName": "hs_object_id", "direction": "ASCENDING"}],
        "properties": list(dict.fromkeys(wanted)),
        "limit": limit,
    }


async def _found(name: str, api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    asked = _search(name, window, cursor["after_id"] if cursor else "0")
    data = (await api.request("POST", f"{OBJECTS}/{name}/search", json=asked)).data
    ids = [str(row["id"]) for row in data["results"] if row.get("id")]
    linked = {target: await _associated(api, name, target, ids) for target in _TYPES[name].links}
    for row in data["results"]:
        own = str(row.get("id"))
        row["associations"] = {
            target: [str(to["toObjectId"]) for to in found[own]] for target, found in linked.items() if own in found
        }
        row["primaryCompany"] = next(
            (str(to["toObjectId"]) for to in linked.get("companies", {}).get(own, ()) if _is_primary(name, to)), None
        )
    await _add_labels(api, name, data["results"])
    return data["results"], {"after_id": ids[-1]} if ids and data.get("paging") else None


async def _add_labels(api: Api, name: str, rows: list[JSON]) -> None:
    """Adds what people call the pipelines and stages that the rows name by id: a portal's own are numbers. Nothing when the connection
    may not read those."""
    if name not in _STAGED or not rows:
        return
    try:
        pipelines = (await api.get(f"{PIPELINES}/{name}")).data["results"]
    except AccessDenied:
        return
    stages = [stage for pipeline in pipelines for stage in pipeline["stages"]]
    called = [{one["id"]: one["label"] for one in found} for found in (pipelines, stages)]
    for row in rows:
        row["labels"] = {
            field: labels[value]
            for field, labels in zip(_STAGED[name], called, strict=True)
            if (value := str((row.get("properties") or {}).get(field))) in labels
        }


def _is_primary(name: str, to: JSON) -> bool:
    """Labels are the portal's or change; a portal's own kinds have numbers of their own, from 1 on."""
    return any(
        kind.get("category") == "HUBSPOT_DEFINED" and kind.get("typeId") == _PRIMARY.get(name)
        for kind in to.get("associationTypes") or ()
    )


async def _associated(api: Api, name: str, target: str, ids: list[str]) -> dict[str, list[JSON]]:
    """The `target` objects that each of the objects is associated with; nothing when the connection may not read those."""

    async def rows_at(cursor: JSON | None) -> Rows:
        asked = cursor or {"inputs": [{"id": object_id} for object_id in ids]}
        rows = (await api.request("POST", f"{ASSOCIATIONS}/{name}/{target}/batch/read", json=asked)).data["results"]
        more = [
            {"id": str(row["from"]["id"]), "after": row["paging"]["next"]["after"]}
            for row in rows
            if (row.get("paging") or {}).get("next")
        ]
        return rows, {"inputs": more} if more else None

    found: dict[str, list[JSON]] = {}
    try:
        for row in await all_rows(rows_at, api.longest_wait) if ids else ():
            found.setdefault(str(row["from"]["id"]), []).extend(row["to"])
    except AccessDenied:
        return {}
    return found


async def _count(name: str, api: Api, partition: Partition, window: Window) -> Estimate | None:
    reply = await api.request("POST", f"{OBJECTS}/{name}/search", json=_search(name, window, limit=1))
    return Estimate(int(reply.data["total"]), exact=True)


async def _list(api: Api, path: str, after: str | None, params: JSON) -> tuple[list[JSON], str | None]:
    """(rows of a page, what the next one begins after)."""
    data = (await api.get(path, {**params, "limit": 100, **({"after": after} if after else {})})).data
    return data["results"], data["paging"]["next"]["after"] if data.get("paging") else None


async def _archived(api: Api, cursor: JSON | None) -> Rows:
    """The bin, type after type: searches never show what is archived, and its list has no dates to filter by."""
    name, after = (cursor["type"], cursor["after"]) if cursor else (_NAMES[0], None)
    what = _TYPES[name]
    wanted = ",".join(("hubspot_owner_id", *what.title, *what.facts, *what.more))
    try:
        rows, more = await _list(api, f"{OBJECTS}/{name}", after, {"archived": "true", "properties": wanted})
    except AccessDenied:
        if cursor is None:  # contacts may always be read; other types as the portal's plan has it
            raise
        rows, more = [], None
    following = name if more else next(iter(_NAMES[_NAMES.index(name) + 1 :]), None)
    await _add_labels(api, name, rows)
    rows = [{**row, "objectType": name} for row in rows]
    return rows, {"type": following, "after": more} if following else None


async def _owners(api: Api, cursor: JSON | None) -> Rows:
    """Those who left (archived) too: old deals are theirs."""
    at = cursor or {"archived": "false", "after": None}
    rows, more = await _list(api, OWNERS, at["after"], {"archived": at["archived"]})
    if more:
        return rows, {**at, "after": more}
    return rows, {"archived": "true", "after": None} if at["archived"] == "false" else None


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _several(value: object) -> list[str]:
    return [part.strip() for part in str(value or "").split(";") if part.strip()]


def _keys(properties: JSON) -> Iterator[str | None]:
    """The keys that hold outside HubSpot: addresses of a contact, domains of a company."""
    yield from map(email_key, (properties.get("email"), *_several(properties.get("hs_additional_emails"))))
    yield domain_key(properties.get("domain") or properties.get("website"))
    yield from map(domain_key, _several(properties.get("hs_additional_domains")))


def _people(addresses: object) -> Iterator[Entity]:
    for address in _several(addresses):
        if key := email_key(address):
            yield Entity("person", key, address)


def _extract(name: str, row: JSON, context: Context) -> Graph:
    what, properties = _TYPES[name], row["properties"]
    shared = filter(None, _keys(properties)) if what.kind in ("person", "organization") else ()
    ids = [str(row["id"]), *_several(properties.get("hs_merged_object_ids"))]
    key, *aliases = dict.fromkeys([*shared, *context.keys(what.one, *ids)])
    title = " ".join(filter(None, (one_line(properties.get(field)) for field in what.title)))[:200]
    title = title or properties.get("email") or properties.get("domain") or f"{what.one.capitalize()} {row['id']}"
    known = facts({**properties, **(row.get("labels") or {})}, *what.facts, deleted=row.get("archived"))
    said = Graph(Entity(what.kind, key, title, known, tuple(aliases)))
    said.refer(what.owner, context.keys("owner", properties.get("hubspot_owner_id")))
    said.refer("part_of", context.keys("company", properties.get("hs_parent_company_id")))
    for target, linked in (row.get("associations") or {}).items():
        primary = row.get("primaryCompany") if target == "companies" else None
        main, others = ([primary], [other for other in linked if other != primary]) if primary else (linked, [])
        said.refer(what.links[target], context.keys(_TYPES[target].one, *main))
        said.refer("relates_to", context.keys(_TYPES[target].one, *others))
    said.by("authored", *_people(properties.get("hs_email_from_email")))
    said.to("with", *_people(properties.get("hs_email_to_email")), *_people(properties.get("hs_email_cc_email")))
    said.refer("mentions", (key for field in what.texts for key in mentioned_emails(one_line(properties.get(field)))))
    return said


def _extract_archived(row: JSON, context: Context) -> Graph:
    return _extract(row["objectType"], row, context)


def _extract_owner(row: JSON, context: Context) -> Graph:
    name = " ".join(filter(None, (row.get("firstName"), row.get("lastName"))))
    name = name or row.get("email") or f"Owner {row['id']}"
    known = facts(row, "email", **({"archived": True} if row.get("archived") else {}))
    own = context.key("owner", row["id"])
    if row.get("type") == "QUEUE":
        return Graph(Entity("group", own, name, known))
    return Graph(person(own, name, row.get("email"), known))


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    """The portal. Works for OAuth and private apps alike, which HubSpot's introspection of tokens does not."""
    who = (await api.get("/account-info/v3/details")).data
    return Account(str(who["portalId"]), f"{who.get('uiDomain') or 'HubSpot'} {who['portalId']}")


async def _revoke(grant: Revocation) -> None:
    """Ends the refresh token; access tokens live out their half-hour, and the app stays listed in the portal."""
    form = {"token": grant.refresh_token, "token_type_hint": "refresh_token"}
    client = {"client_id": grant.client_id, "client_secret": grant.client_secret}
    await grant.api.request("POST", f"{TOKEN}/revoke", form={**form, **client})


_SCOPES = {
    "contacts": "crm.objects.contacts.read",
    "companies": "crm.objects.companies.read",
    "deals": "crm.objects.deals.read",
    "tickets": "tickets",
    "emails": "sales-email-read",
}


_OWNER = reader("id", lambda row: _time(row["updatedAt"]))
_BINNED = reader(lambda row: f"{row['objectType']}:{row['id']}", lambda row: _time(row["archivedAt"]))


def _stream(name: str) -> Stream:
    # What is done about a contact is read with the contacts' scope.
    needs, modified = (_SCOPES.get(name, _SCOPES["contacts"]),), _TYPES[name].modified
    read = reader("id", lambda row: _time(row["properties"].get(modified) or row["updatedAt"]))
    # What a page of 200 is associated with is asked for by a request for each type, and what its stages are called by one.
    page_size = 200 // (1 + len(_TYPES[name].links) + (name in _STAGED))
    return Stream(
        name, name.capitalize(), WindowKind.EXACT, pages(partial(_found, name), read), partial(_extract, name), partial(_count, name),
        needs=needs, page_size=page_size, record=read,
    )  # fmt: skip


HUBSPOT = Provider(
    slug="hubspot",
    name="HubSpot",
    category="Sales",
    summary="Who the customers are and what was said: contacts, companies, deals, tickets, calls, e-mails, meetings and notes.",
    brings=("Contacts", "Companies", "Deals", "Tickets", "Calls, e-mails, meetings, notes and tasks"),
    api_url="https://api.hubapi.com",
    auth_url="https://app.hubspot.com",
    identify=_identify,
    classify=_classify,
    rate_state=_rate_state,
    # 110 in 10 s for an installed app; searches have 5 a second of their own, which all apps of the account share.
    budget=RateBudget(requests=100, seconds=10, concurrency=3),
    oauth=OAuth(
        "/oauth/authorize", TOKEN, ("oauth", _SCOPES["contacts"], _SCOPES["companies"], _SCOPES["deals"], "crm.objects.owners.read"),
        # What a portal's plan may lack would block the whole installation if it were required.
        extra_authorize={"optional_scope": "tickets sales-email-read"},
        revoke=_revoke, token_root="https://api.hubapi.com", token_reply=lambda answer: {**answer, "scope": answer.get("scopes")},
    ),
    token_help="The access token of a private app with read access to contacts, companies, deals, owners, tickets and e-mails.",
    settle=timedelta(minutes=5),
    ids_by_account=True,
    streams=(
        Stream(
            "owners", "Owners", WindowKind.SNAPSHOT, listing(_owners, _OWNER), _extract_owner,
            needs=("crm.objects.owners.read",),
        ),
        *(_stream(name) for name in _NAMES),
        Stream(
            "archived", "Archived records", WindowKind.SNAPSHOT, listing(_archived, _BINNED), _extract_archived,
            needs=(_SCOPES["contacts"],),
        ),
    ),
)  # fmt: skip
