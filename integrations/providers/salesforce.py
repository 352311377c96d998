"""Salesforce's REST API by SOQL: accounts, contacts, opportunities, cases, tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Misconfigured,
    ProviderError,
    RequestRejected,
    Throttled,
    Unavailable,
    WindowTooLarge,
)
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

VERSION = "v67.0"
LOGIN = "https://login.salesforce.com"
_OWN_HOSTS = (".salesforce.com", ".force.com", ".cloudforce.com", ".salesforce.mil")

# What each stream selects. Parents' names and addresses come with the row, so that links need no second look.
_FIELDS: dict[str, str] = {
    "Account": "Id, Name, Website, Industry, Phone, ParentId, Parent.Name, OwnerId, Owner.Name, Owner.Email",
    "Contact": "Id, Name, Email, Phone, Title, AccountId, Account.Name, Account.Website, OwnerId, Owner.Name, Owner.Email",
    "Opportunity": "Id, Name, Amount, StageName, CloseDate, IsWon, IsClosed, Description, AccountId, Account.Name, Account.Website, "
    "OwnerId, Owner.Name, Owner.Email",
    "Case": "Id, CaseNumber, Subject, Description, Status, Priority, IsClosed, AccountId, Account.Name, Account.Website, "
    "ContactId, Contact.Name, Contact.Email, OwnerId, Owner.Name, Owner.Email",
    "Task": "Id, Subject, Description, Status, Priority, ActivityDate, WhoId, Who.Name, Who.Email, WhatId, What.Name, "
    "OwnerId, Owner.Name, Owner.Email",
}
_COMMON = "CreatedDate, SystemModstamp, IsDeleted"
# The first three characters of an id say what it is.
_PREFIXES = {
    "001": "account",
    "003": "contact",
    "00Q": "lead",
    "005": "user",
    "006": "opportunity",
    "500": "case",
    "00T": "task",
}
_KINDS = {
    "account": "organization",
    "contact": "person",
    "lead": "person",
    "user": "person",
    "opportunity": "deal",
    "case": "case",
}


# -- wire format --------------------------------------------------------------------------------------------------------------


def _time(value: str) -> datetime:
    """2025-01-03T10:11:12.000+0000, whose offset lacks the colon."""
    if value.endswith("+0000"):
        return datetime.fromisoformat(value[:-5] + "+00:00")
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%f%z")


def _literal(moment: datetime) -> str:
    """A SOQL date-time, to the millisecond that SystemModstamp has."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status < 400:
        return None
    first = reply.data[0] if isinstance(reply.data, list) and reply.data and isinstance(reply.data[0], dict) else {}
    code, message = str(first.get("errorCode", "")), str(first.get("message", ""))
    if code == "REQUEST_LIMIT_EXCEEDED":
        # Too many long requests at once clears in seconds; the day's allocation in hours. Salesforce names no time for either.
        if "TotalRequests" in message:
            return Throttled("Salesforce's daily limit of API calls is used up.", daily=True)
        return Throttled("Salesforce asks for fewer requests at once.", datetime.now(UTC) + timedelta(seconds=15))
    if code == "INVALID_QUERY_LOCATOR":
        return CursorExpired("Salesforce no longer knows the page; going on by date.")
    if code == "QUERY_TIMEOUT":
        return WindowTooLarge("Salesforce needs too long for this span of time.")
    if code in (
        "INVALID_TYPE",
        "INVALID_FIELD",
        "INSUFFICIENT_ACCESS",
        "API_DISABLED_FOR_ORG",
        "API_CURRENTLY_DISABLED",
    ):
        return AccessDenied(f"Salesforce does not let this user read it: {message[:300]}")
    if code == "MALFORMED_QUERY":
        return RequestRejected(f"Salesforce does not understand the query: {message[:300]}")
    if reply.status in (406, 420):
        return Unavailable(f"Salesforce has a problem of its own ({reply.status}).")
    return None


def _rate_state(reply: Reply) -> RateState | None:
    """Sforce-Limit-Info: api-usage=10018/100000, of a rolling day."""
    info = reply.headers.get("sforce-limit-info", "")
    used, _, limit = info.partition("api-usage=")[2].partition(";")[0].partition("/")
    if not (used.isdigit() and limit.isdigit()):
        return None
    return RateState(max(0, int(limit) - int(used)), int(limit))


def _api_root(api_url: str, facts: Mapping[str, Any]) -> str:
    """The org's own host, when the deployment has not pointed Salesforce somewhere else."""
    instance = str(facts.get("instance_url") or "")
    if api_url != LOGIN or not instance:
        return api_url
    parts = urlsplit(instance)
    if parts.scheme != "https" or not (parts.hostname or "").endswith(_OWN_HOSTS) or parts.username:
        raise Misconfigured("Salesforce named an instance outside its own domains.")
    return instance


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _condition(window: Window) -> str:
    return f"SystemModstamp >= {_literal(window.since)} AND SystemModstamp < {_literal(window.until)}"


def _fetch(table: str) -> Callable[..., Any]:
    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        if cursor:
            reply = await api.get(cursor["next"])
        else:
            soql = f"SELECT {_FIELDS[table]}, {_COMMON} FROM {table} WHERE {_condition(window)} ORDER BY SystemModstamp ASC, Id ASC"
            reply = await api.get(f"/services/data/{VERSION}/queryAll", {"q": soql})
        records, rejected = [], []
        for row in reply.data["records"]:
            try:
                records.append(Record(row["Id"], _time(row["SystemModstamp"]), row))
            except (KeyError, TypeError, ValueError) as error:
                rejected.append((str(row.get("Id", "")), row, f"no usable id or time: {type(error).__name__} {error}"))
        following = None if reply.data.get("done", True) else {"next": reply.data["nextRecordsUrl"]}
        return Page(records, following, records[-1].occurred_at if records else None, rejected)

    return fetch


def _count(table: str) -> Callable[..., Any]:
    async def count(api: Api, partition: Partition, window: Window) -> Estimate | None:
        reply = await api.get(
            f"/services/data/{VERSION}/queryAll", {"q": f"SELECT COUNT() FROM {table} WHERE {_condition(window)}"}
        )
        return Estimate(int(reply.data["totalSize"]), exact=True)

    return count


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _own_key(ns: str, record_id: str) -> str:
    return f"{ns}:{_PREFIXES.get(record_id[:3], 'object')}:{record_id}"


def _by_address(ns: str, record_id: str, address: object) -> tuple[str, tuple[str, ...]]:
    """(key, aliases) of a person: the address if there is one, the id besides."""
    own, shared = _own_key(ns, record_id), email_key(address)
    return (own, ()) if shared is None else (shared, (own,))


def _parent(row: JSON, name: str) -> JSON:
    return row.get(name) or {}


def _owner(row: JSON, ns: str) -> list[Entity]:
    """The owning user; queues own cases too, and are no persons."""
    owner_id, owner = row.get("OwnerId"), _parent(row, "Owner")
    if not owner_id or not owner_id.startswith("005"):
        return []
    key, aliases = _by_address(ns, owner_id, owner.get("Email"))
    return [Entity("person", key, owner.get("Name") or "Salesforce user", None, aliases)]


def _account_of(row: JSON, ns: str) -> list[Entity]:
    account_id, account = row.get("AccountId"), _parent(row, "Account")
    if not account_id:
        return []
    own, domain = _own_key(ns, account_id), domain_key(account.get("Website"))
    return [Entity("organization", domain or own, account.get("Name") or "Account", None, (own,) if domain else ())]


def _person_of(row: JSON, ns: str, field: str, parent: str) -> list[Entity]:
    person_id, person = row.get(field), _parent(row, parent)
    if not person_id:
        return []
    key, aliases = _by_address(ns, person_id, person.get("Email"))
    return [Entity("person", key, person.get("Name") or "Contact", None, aliases)]


def _graph(own: Entity, *links: tuple[str, list[Entity], bool]) -> Graph:
    """links: (kind, entities, own entity is the source)."""
    said = []
    entities = [own]
    for kind, others, forward in links:
        for other in others:
            entities.append(other)
            said.append(Relationship(kind, own.key, other.key) if forward else Relationship(kind, other.key, own.key))
    return Graph(entities, said)


def _mentions(graph: Graph, *texts: str | None) -> Graph:
    own = graph.entities[0].key
    for text in texts:
        graph.relationships.extend(
            Relationship("mentions", own, key) for key in mentioned_emails(text or "") if key != own
        )
    return graph


def _facts(row: JSON, *names: str) -> JSON:
    facts = {name: row[name] for name in names if row.get(name) is not None}
    if row.get("IsDeleted"):
        facts["deleted"] = True
    return facts


def _extract_account(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    own, domain = _own_key(ns, row["Id"]), domain_key(row.get("Website"))
    account = Entity(
        "organization",
        domain or own,
        row["Name"],
        _facts(row, "Website", "Industry", "Phone"),
        (own,) if domain else (),
    )
    parent = []
    if row.get("ParentId"):
        parent = [
            Entity("organization", _own_key(ns, row["ParentId"]), _parent(row, "Parent").get("Name") or "Account")
        ]
    return _graph(account, ("part_of", parent, True), ("owned_by", _owner(row, ns), True))


def _extract_contact(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    key, aliases = _by_address(ns, row["Id"], row.get("Email"))
    person = Entity(
        "person", key, row.get("Name") or row.get("Email") or "Contact", _facts(row, "Email", "Phone", "Title"), aliases
    )
    return _graph(person, ("works_at", _account_of(row, ns), True), ("owned_by", _owner(row, ns), True))


def _extract_opportunity(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    deal = Entity(
        "deal",
        _own_key(ns, row["Id"]),
        row["Name"],
        _facts(row, "Amount", "StageName", "CloseDate", "IsWon", "IsClosed"),
    )
    graph = _graph(deal, ("for_account", _account_of(row, ns), True), ("owned_by", _owner(row, ns), True))
    return _mentions(graph, row.get("Description"))


def _extract_case(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    name = row.get("Subject") or f"Case {row.get('CaseNumber', '')}"
    case = Entity("case", _own_key(ns, row["Id"]), name, _facts(row, "CaseNumber", "Status", "Priority", "IsClosed"))
    graph = _graph(
        case,
        ("raised_by", _person_of(row, ns, "ContactId", "Contact"), True),
        ("for_account", _account_of(row, ns), True),
        ("assigned_to", _owner(row, ns), True),
    )
    return _mentions(graph, row.get("Subject"), row.get("Description"))


def _extract_task(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    task = Entity(
        "task", _own_key(ns, row["Id"]), row.get("Subject") or "Task", _facts(row, "Status", "Priority", "ActivityDate")
    )
    about = []
    what = row.get("WhatId")
    if what and (kind := _KINDS.get(_PREFIXES.get(what[:3], ""))):
        about = [Entity(kind, _own_key(ns, what), _parent(row, "What").get("Name") or kind.capitalize())]
    graph = _graph(
        task,
        ("assigned_to", _owner(row, ns), True),
        ("with", _person_of(row, ns, "WhoId", "Who"), True),
        ("about", about, True),
    )
    return _mentions(graph, row.get("Subject"), row.get("Description"))


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/services/oauth2/userinfo")
    who = reply.data
    label = who.get("email") or who.get("preferred_username") or who.get("name") or who["organization_id"]
    return Account(str(who["organization_id"]), str(label), None, {"user_id": who.get("user_id")})


async def _revoke(grant: Revocation) -> None:
    await grant.api.request(
        "POST", "/services/oauth2/revoke", form={"token": grant.refresh_token or grant.access_token}, auth=("", "")
    )


def _token_facts(token: Mapping[str, Any]) -> JSON:
    return {"instance_url": token["instance_url"]} if token.get("instance_url") else {}


def _stream(name: str, label: str, table: str, extract: Callable[[JSON, Context], Graph]) -> Stream:
    return Stream(name, label, WindowKind.EXACT, _fetch(table), extract, _count(table), needs=("api",), page_size=2000)


SALESFORCE = Provider(
    slug="salesforce",
    name="Salesforce",
    category="Sales",
    summary="Customers and deals: accounts, contacts, opportunities, cases and what was done about them.",
    brings=("Accounts", "Contacts", "Opportunities", "Cases", "Tasks"),
    api_url=LOGIN,
    auth_url=LOGIN,
    api_root=_api_root,
    identify=_identify,
    classify=_classify,
    rate_state=_rate_state,
    # The org's own limit arrives with the first reply; this is what the smallest org has.
    budget=RateBudget(requests=15_000, seconds=86_400, concurrency=5),
    oauth=OAuth(
        "/services/oauth2/authorize", "/services/oauth2/token", ("api", "refresh_token", "openid", "email"),
        revoke=_revoke, token_facts=_token_facts,
    ),
    settle=timedelta(minutes=5),
    streams=(
        _stream("accounts", "Accounts", "Account", _extract_account),
        _stream("contacts", "Contacts", "Contact", _extract_contact),
        _stream("opportunities", "Opportunities", "Opportunity", _extract_opportunity),
        _stream("cases", "Cases", "Case", _extract_case),
        _stream("tasks", "Tasks", "Task", _extract_task),
    ),
)  # fmt: skip
