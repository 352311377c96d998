"""HubSpot's CRM API: contacts, companies, deals, tickets, what was done about them, owners, and what was archived."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any, NamedTuple

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
    Page,
    Partition,
    Provider,
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

OBJECTS, ASSOCIATIONS, OWNERS, TOKEN = (
    "/crm/v3/objects",
    "/crm/v4/associations",
    "/crm/v3/owners",
    "/oauth/2026-03/token",
)
_EPOCH, _MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_TAG = re.compile(r"<[^>]*>")


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
        "deal", "deal", ("dealname",), ("amount", "dealstage", "pipeline", "closedate"), ("description",),
        {"companies": "for_account", "contacts": "with"},
    ),
    "tickets": _Type(
        "ticket", "ticket", ("subject",), ("hs_pipeline_stage", "hs_ticket_priority", "closed_date"), ("subject", "content"),
        {"contacts": "raised_by", "companies": "for_account"}, "assigned_to",
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


# -- wire format --------------------------------------------------------------------------------------------------------------


def _time(value: object) -> datetime:
    """2025-01-05T12:30:10.250Z, or epoch milliseconds as digits."""
    text = str(value)
    return _EPOCH + int(text) * _MS if text.isdigit() else datetime.fromisoformat(text).astimezone(UTC)


def _classify(reply: Reply) -> ProviderError | None:
    body = reply.data if isinstance(reply.data, dict) else {}
    if reply.status == 429:
        policy = str(body.get("policyName", ""))
        if policy == "DAILY":  # until midnight in the portal's time zone, which the reply does not say
            return Throttled("HubSpot's daily limit of API calls is used up.", reply.retry_at(), daily=True)
        wait = timedelta(seconds=1 if policy == "SECONDLY" else 10)
        return Throttled("HubSpot asks to slow down.", reply.retry_at() or datetime.now(UTC) + wait)
    if reply.status in (423, 477):  # locked; the account is being moved
        at = reply.retry_at() or datetime.now(UTC) + timedelta(seconds=2 if reply.status == 423 else 60)
        return Unavailable("HubSpot has locked the account for a moment.", at)
    if reply.status == 403:
        contexts = [
            e["context"] for e in body.get("errors") or () if isinstance(e, dict) and isinstance(e.get("context"), dict)
        ]
        scopes = [
            str(s) for c in contexts for key in ("requiredGranularScopes", "missingScopes") for s in c.get(key) or ()
        ]
        missing = f" It needs {', '.join(dict.fromkeys(scopes))}." if scopes else ""
        return AccessDenied(f"HubSpot does not let this connection read it.{missing}")
    return None


def _rate_state(reply: Reply) -> RateState | None:
    """The ten-second window's headers; searches, which have a limit of their own, carry none."""
    try:
        left, limit, interval = (
            int(reply.headers[f"x-hubspot-ratelimit-{n}"]) for n in ("remaining", "max", "interval-milliseconds")
        )
    except (KeyError, ValueError):
        return None
    return RateState(left, limit, datetime.now(UTC) + interval * _MS if left == 0 else None)


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _search(name: str, window: Window, after_id: str = "0", limit: int = 200) -> JSON:
    """The body of a search: in the window, by id, from the one after `after_id`.

    HubSpot lists 10,000 results of one search, and a bulk edit gives any number of rows the same millisecond; so each page is a
    search of its own that begins after the last id seen, which also neither repeats nor skips rows that change meanwhile.
    """
    what = _TYPES[name]
    since, until = (window.since - _EPOCH) // _MS, -((_EPOCH - window.until) // _MS)
    wanted = (what.modified, "hs_object_id", "hubspot_owner_id", *what.title, *what.facts, *what.texts, *what.more)
    conditions = ((what.modified, "GTE", since), (what.modified, "LT", until), ("hs_object_id", "GT", after_id))
    return {
        "filterGroups": [{"filters": [{"propertyName": p, "operator": o, "value": str(v)} for p, o, v in conditions]}],
        "sorts": [{"propertyName": "hs_object_id", "direction": "ASCENDING"}],
        "properties": list(dict.fromkeys(wanted)),
        "limit": limit,
    }


def _records(
    rows: list[JSON], time_of: Callable[[JSON], object], prefix: str = "", **more: Any
) -> tuple[list[Record], list[tuple[str, Any, str]]]:
    records, rejected = [], []
    for row in rows:
        try:
            records.append(Record(f"{prefix}{row['id']}", _time(time_of(row)), {**row, **more}))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            rejected.append((str(row.get("id", "")), row, f"no usable id or time: {type(error).__name__} {error}"))
    return records, rejected


def _fetch(name: str) -> Callable[..., Any]:
    what = _TYPES[name]

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        body = _search(name, window, cursor["after_id"] if cursor else "0")
        data = (await api.request("POST", f"{OBJECTS}/{name}/search", json=body)).data
        ids = [str(row["id"]) for row in data["results"] if row.get("id")]
        linked = {target: await _associated(api, name, target, ids) for target in what.links}
        records, rejected = _records(
            data["results"], lambda row: row["properties"].get(what.modified) or row["updatedAt"]
        )
        for record in records:
            own = {target: found[record.external_id] for target, found in linked.items() if record.external_id in found}
            record.payload["associations"] = own
        return Page(records, {"after_id": ids[-1]} if ids and data.get("paging") else None, None, rejected)

    return fetch


async def _associated(api: Api, name: str, target: str, ids: list[str]) -> dict[str, list[str]]:
    """Ids of the `target` objects that each of the objects is associated with; nothing when the connection may not read those."""
    found: dict[str, list[str]] = {}
    inputs: list[JSON] = [{"id": object_id} for object_id in ids]
    while inputs:
        try:
            reply = await api.request("POST", f"{ASSOCIATIONS}/{name}/{target}/batch/read", json={"inputs": inputs})
        except AccessDenied:
            return {}
        inputs = []
        for result in reply.data["results"]:
            object_id, paging = str(result["from"]["id"]), result.get("paging") or {}
            found.setdefault(object_id, []).extend(str(to["toObjectId"]) for to in result["to"])
            if paging.get("next"):
                inputs.append({"id": object_id, "after": paging["next"]["after"]})
    return found


def _count(name: str) -> Callable[..., Any]:
    async def count(api: Api, partition: Partition, window: Window) -> Estimate | None:
        reply = await api.request("POST", f"{OBJECTS}/{name}/search", json=_search(name, window, limit=1))
        return Estimate(int(reply.data["total"]), exact=True)

    return count


async def _fetch_archived(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """The bin, type after type: searches never show what is archived, and its list has no dates to filter by."""
    name, after = (cursor["type"], cursor["after"]) if cursor else (_NAMES[0], None)
    what = _TYPES[name]
    properties = ("hubspot_owner_id", *what.title, *what.facts, *what.more)
    params = {"archived": "true", "limit": 100, "properties": ",".join(properties)}
    try:
        data = (await api.get(f"{OBJECTS}/{name}", {**params, "after": after} if after else params)).data
    except AccessDenied:
        if cursor is None:  # contacts may always be read; other types as the portal's plan has it
            raise
        data = {"results": []}
    records, rejected = _records(data["results"], lambda row: row["archivedAt"], f"{name}:", objectType=name)
    if more := data.get("paging"):
        return Page(records, {"type": name, "after": more["next"]["after"]}, None, rejected)
    following = _NAMES.index(name) + 1
    cursor = {"type": _NAMES[following], "after": None} if following < len(_NAMES) else None
    return Page(records, cursor, None, rejected)


async def _fetch_owners(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Those who left (archived) too: old deals are theirs."""
    at = cursor or {"archived": "false", "after": None}
    params = {"limit": 100, "archived": at["archived"], **({"after": at["after"]} if at["after"] else {})}
    data = (await api.get(OWNERS, params)).data
    records, rejected = _records(data["results"], lambda row: row["updatedAt"])
    if more := data.get("paging"):
        return Page(records, {**at, "after": more["next"]["after"]}, None, rejected)
    return Page(records, {"archived": "true", "after": None} if at["archived"] == "false" else None, None, rejected)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _plain(text: object) -> str:
    """HTML as one line of text."""
    return " ".join(unescape(_TAG.sub(" ", str(text or ""))).split())


def _listed(value: object) -> list[str]:
    return [part.strip() for part in str(value or "").split(";") if part.strip()]


def _keys(properties: JSON) -> Iterator[str | None]:
    """The keys that hold outside HubSpot: addresses of a contact, domains of a company."""
    yield from map(email_key, (properties.get("email"), *_listed(properties.get("hs_additional_emails"))))
    yield domain_key(properties.get("domain") or properties.get("website"))
    yield from map(domain_key, _listed(properties.get("hs_additional_domains")))


def _extract(name: str) -> Callable[[JSON, Context], Graph]:
    def extract(row: JSON, context: Context) -> Graph:
        return _object(name, row, context.namespace)

    return extract


def _object(name: str, row: JSON, ns: str) -> Graph:
    what, properties = _TYPES[name], row["properties"]
    shared = [key for key in _keys(properties) if key] if what.kind in ("person", "organization") else []
    ids = [str(row["id"]), *_listed(properties.get("hs_merged_object_ids"))]
    key, *aliases = dict.fromkeys([*shared, *(f"{ns}:{what.one}:{object_id}" for object_id in ids)])
    title = " ".join(filter(None, (_plain(properties.get(field)) for field in what.title)))[:200]
    facts: JSON = {field: properties[field] for field in what.facts if properties.get(field)}
    if row.get("archived"):
        facts["deleted"] = True
    title = title or properties.get("email") or properties.get("domain") or f"{what.one.capitalize()} {row['id']}"
    entities, said = [Entity(what.kind, key, title, facts, tuple(aliases))], []

    def person(address: str, kind: str, forward: bool) -> None:
        if other := email_key(address):
            entities.append(Entity("person", other, address))
            said.append(Relationship(kind, key, other) if forward else Relationship(kind, other, key))

    if owner := properties.get("hubspot_owner_id"):
        said.append(Relationship(what.owner, key, f"{ns}:owner:{owner}"))
    if parent := properties.get("hs_parent_company_id"):
        said.append(Relationship("part_of", key, f"{ns}:company:{parent}"))
    for target, linked in (row.get("associations") or {}).items():
        said.extend(
            Relationship(what.links[target], key, f"{ns}:{_TYPES[target].one}:{i}") for i in dict.fromkeys(linked)
        )
    for address in _listed(properties.get("hs_email_from_email")):
        person(address, "authored", False)
    for address in _listed(properties.get("hs_email_to_email")) + _listed(properties.get("hs_email_cc_email")):
        person(address, "with", True)
    mentioned = dict.fromkeys(m for field in what.texts for m in mentioned_emails(_plain(properties.get(field))))
    said.extend(Relationship("mentions", key, m) for m in mentioned if m != key)
    return Graph(entities, said)


def _extract_archived(row: JSON, context: Context) -> Graph:
    return _object(row["objectType"], row, context.namespace)


def _extract_owner(row: JSON, context: Context) -> Graph:
    own, shared = f"{context.namespace}:owner:{row['id']}", email_key(row.get("email"))
    name = (
        " ".join(filter(None, (row.get("firstName"), row.get("lastName")))) or row.get("email") or f"Owner {row['id']}"
    )
    facts = {field: row[field] for field in ("email", "archived") if row.get(field)}
    return Graph([Entity("person", shared or own, name, facts, (own,) if shared else ())], [])


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


def _stream(name: str) -> Stream:
    # What is done about a contact is read with the contacts' scope.
    needs = (_SCOPES.get(name, _SCOPES["contacts"]),)
    return Stream(
        name,
        name.capitalize(),
        WindowKind.EXACT,
        _fetch(name),
        _extract(name),
        _count(name),
        needs=needs,
        page_size=200,
    )


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
        Stream("owners", "Owners", WindowKind.SNAPSHOT, _fetch_owners, _extract_owner, needs=("crm.objects.owners.read",)),
        *(_stream(name) for name in _NAMES),
        Stream("archived", "Archived records", WindowKind.SNAPSHOT, _fetch_archived, _extract_archived, needs=(_SCOPES["contacts"],)),
    ),
)  # fmt: skip
