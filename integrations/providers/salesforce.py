"""Salesforce by SOQL: customers, leads, deals, cases and activities; by REST, and by the Bulk API where there is very much."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Misconfigured,
    ProviderError,
    ReauthRequired,
    RequestRejected,
    Throttled,
    Unavailable,
    WindowTooLarge,
)
from integrations.http import Api, Reply
from integrations.providers import salesforce_bulk as bulk
from integrations.providers.base import (
    JSON,
    Account,
    Context,
    Entity,
    Estimate,
    Extract,
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
from integrations.providers.graph import besides, facts, organization, person
from integrations.providers.replies import ErrorTable, Means, error_in, first
from integrations.providers.text import domain_key, mentioned_emails
from integrations.providers.wire import page, reader, stamp, utc

ROOT = "/services/data/v67.0"
BULK_FROM = 10_000  # rows of one window
LOGIN = "https://login.salesforce.com"
_OWN_HOSTS = (".salesforce.com", ".force.com", ".cloudforce.com", ".salesforce.mil")
# Production, sandboxes, or one org's own domain: acme.my.salesforce.com, acme--uat.sandbox.my.salesforce.com.
_LOGIN_HOST = r"(?:login|test|[a-z0-9](?:[a-z0-9-]{0,78}[a-z0-9])?(?:\.[a-z]{1,20})?\.my)\.salesforce\.com"

# What each stream selects. Parents' names come with the row, so that links need no second look. An org has CurrencyIsoCode if it has
# several currencies.
_FIELDS: dict[str, str] = {
    "User": "Id, Name, Email, Title, Department, IsActive, UserType",
    "Account": "Id, Name, Website, Industry, Phone, ParentId, Parent.Name, OwnerId, Owner.Name, MasterRecordId, IsDeleted, "
    "IsPersonAccount, PersonContactId, PersonEmail",
    "Contact": "Id, Name, Email, Phone, Title, AccountId, Account.Name, Account.IsPersonAccount, OwnerId, Owner.Name, "
    "MasterRecordId, IsDeleted",
    "Lead": "Id, Name, Company, Email, Phone, Title, Website, Status, LeadSource, OwnerId, Owner.Name, ConvertedAccountId, "
    "ConvertedContactId, ConvertedOpportunityId, MasterRecordId, IsDeleted",
    "Opportunity": "Id, Name, Amount, CurrencyIsoCode, StageName, CloseDate, IsWon, IsClosed, Description, AccountId, Account.Name, "
    "OwnerId, Owner.Name, IsDeleted",
    "OpportunityContactRole": "Id, OpportunityId, Opportunity.Name, ContactId, Contact.Name, Role, IsPrimary, IsDeleted",
    "Case": "Id, CaseNumber, Subject, Description, Status, Priority, IsClosed, AccountId, Account.Name, "
    "ContactId, Contact.Name, OwnerId, Owner.Name, MasterRecordId, IsDeleted",
    "Task": "Id, Subject, Description, Status, Priority, ActivityDate, WhoId, Who.Name, WhatId, What.Name, OwnerId, Owner.Name, IsDeleted",
    "Event": "Id, Subject, Description, Location, StartDateTime, EndDateTime, IsAllDayEvent, IsChild, WhoId, Who.Name, WhatId, What.Name, "
    "OwnerId, Owner.Name, IsDeleted",
}
# Read whole, whenever they changed: rows of any age name their owners, and only a user's own row says who that is.
_TIMELESS = frozenset({"User"})
# What accounts have only where people can be accounts: the first that is missing tells of all.
_PERSON_ACCOUNTS = {"IsPersonAccount", "PersonContactId", "PersonEmail"}
# Users who are nobody: Salesforce's own processes and the visitors of a public site.
_NOBODY = ("AutomatedProcess", "CloudIntegrationUser", "Guest")
_MERGED_BEFORE = 2_000_000  # microseconds by which a merge's loser counts as older
_COMMON = "CreatedDate, SystemModstamp"
# The first three characters of an id say what it is.
_PREFIXES = {"001": "account", "003": "contact", "00Q": "lead", "005": "user", "006": "opportunity", "500": "case",
             "00T": "task", "00U": "event", "00G": "group"}  # fmt: skip
_KINDS = {"account": "organization", "contact": "person", "lead": "person", "user": "person", "opportunity": "deal",
          "case": "case"}  # fmt: skip

# -- wire format --------------------------------------------------------------------------------------------------------------

_NO_COLUMN = re.compile(r"No such column '(?:\w+\.)?(\w+)' on (?:entity|sobject(?: of type)?) '?(\w+)")
_NO_PARENT = re.compile(r"Didn't understand relationship '(\w+)'")
_PASSING = ("retry your request", "already being processed", "rate exceeded")  # of the token endpoint
_NO_TOKEN = "Bad_OAuth_Token"  # what the question whose token it is answers with 403 and plain text
_UNREADABLE = ("INVALID_TYPE", "INVALID_FIELD", "INSUFFICIENT_ACCESS", "API_DISABLED_FOR_ORG", "API_CURRENTLY_DISABLED")
_ERRORS: ErrorTable = {
    **dict.fromkeys(_UNREADABLE, Means(AccessDenied, "Salesforce does not let this user read it: {said}")),
    **dict.fromkeys((406, 420), Means(Unavailable, "Salesforce has a problem of its own ({status}).")),
    "INVALID_QUERY_LOCATOR": Means(CursorExpired, "Salesforce no longer knows the page; going on by date."),
    "QUERY_TIMEOUT": Means(WindowTooLarge, "Salesforce needs too long for this span of time."),
    # Whom and what tasks and events are about may be of any kind; who may not see all has it looked up for each.
    "OPERATION_TOO_LARGE": Means(WindowTooLarge, "Salesforce finds too much in this span of time."),
    "MALFORMED_QUERY": Means(RequestRejected, "Salesforce does not understand the query: {said}"),
    # Too many long requests at once clears in seconds. Salesforce names no time.
    "REQUEST_LIMIT_EXCEEDED": Means(Throttled, "Salesforce asks for fewer requests at once.", wait=15),
}


class _Hidden(AccessDenied):
    """A field, or a parent's, that the user may not see: field-level security, or an object that is none of the user's.

    column: "" for all of a parent's. entity: the object that the column is of, or the name of the parent.
    """

    def __init__(self, message: str, column: str, entity: str) -> None:
        super().__init__(message)
        self.column, self.entity = column, entity

    def without(self, fields: list[str], table: str) -> list[str]:
        """The fields that are left."""
        if not self.column:
            return [field for field in fields if not field.startswith(f"{self.entity}.")]
        if self.entity == table and self.column in fields:
            gone = _PERSON_ACCOUNTS if self.column in _PERSON_ACCOUNTS else {self.column}
            return [field for field in fields if field not in gone]
        return [field for field in fields if not field.endswith(f".{self.column}")]


def _is_expired(reply: Reply) -> bool:
    return reply.status == 401 or (reply.status == 403 and reply.text.strip() == _NO_TOKEN)


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status < 400:
        return None
    if _is_expired(reply):
        return ReauthRequired("Salesforce no longer accepts this connection's access.")
    error = first(reply.data)
    code, message = str(error.get("errorCode", "")), str(error.get("message", ""))
    message = message.strip().rpartition("\n")[2]  # before it stands the place in the query
    if code == "INVALID_FIELD" and (found := _NO_COLUMN.search(message)):
        return _Hidden(f"Salesforce does not let this user read it: {message[:300]}", found[1], found[2])
    if code == "INVALID_FIELD" and (found := _NO_PARENT.search(message)):
        return _Hidden(f"Salesforce does not let this user read it: {message[:300]}", "", found[1])
    if code == "REQUEST_LIMIT_EXCEEDED" and "TotalRequests" in message:
        return Throttled("Salesforce's daily limit of API calls is used up.", daily=True)
    return error_in(_ERRORS, reply, code, message)


def _rate_state(reply: Reply) -> RateState | None:
    """Sforce-Limit-Info: api-usage=10018/100000, of a rolling day."""
    info = reply.headers.get("sforce-limit-info", "")
    used, _, limit = info.partition("api-usage=")[2].partition(";")[0].partition("/")
    if not (used.isdigit() and limit.isdigit()):
        return None
    return RateState(max(0, int(limit) - int(used)), int(limit))


def _auth_root(auth_url: str, facts: Mapping[str, Any]) -> str:
    """Where this org signs in, when the deployment has not pointed Salesforce somewhere else."""
    host = str(facts.get("login_host") or "")
    return f"https://{host}" if auth_url == LOGIN and re.fullmatch(_LOGIN_HOST, host) else auth_url


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


def _where(table: str, window: Window) -> str:
    """To the millisecond that SystemModstamp has: the end rounded up, so that no row at an edge is in neither window."""
    if table in _TIMELESS:
        return ""
    until = stamp(window.until + timedelta(microseconds=-window.until.microsecond % 1000), "milliseconds")
    return f" WHERE SystemModstamp >= {stamp(window.since, 'milliseconds')} AND SystemModstamp < {until}"


_CHANGED = reader("Id", "SystemModstamp")


async def _first_page(table: str, where: str, order: str, api: Api) -> tuple[Reply, str]:
    """The first page, and the query that it answers, without what the user may not see: a profile that hides one field of an object
    would cost all of its rows."""
    fields = _FIELDS[table].split(", ")
    while True:
        query = f"SELECT {', '.join(fields)}, {_COMMON} FROM {table}{where}"
        try:
            return await api.get(f"{ROOT}/queryAll", {"q": f"{query} ORDER BY {order}"}), query
        except _Hidden as hidden:
            left = hidden.without(fields, table)
            if len(left) == len(fields) or "Id" not in left:
                raise
            fields = left


async def _fetch(table: str, api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """By REST; a window that turns out to hold very much (a mass update) by the Bulk API, whose rows come in no order."""
    if cursor and "job" in cursor:
        if not await bulk.ready(api, ROOT, cursor["job"]):
            return Page([], {"rest": True})
        rows, locator = await bulk.rows(api, ROOT, cursor["job"], cursor["locator"])
        return page(rows, _CHANGED, {**cursor, "locator": locator} if locator else None)
    is_timeless = table in _TIMELESS
    if cursor and "next" in cursor:
        reply = await api.get(cursor["next"])
    else:
        order = "Id ASC" if is_timeless else "SystemModstamp ASC, Id ASC"
        reply, query = await _first_page(table, _where(table, window), order, api)
        if int(reply.data["totalSize"]) >= BULK_FROM and not cursor and (job := await bulk.start(api, ROOT, query)):
            return Page([], {"job": job, "locator": ""})
    following = None if reply.data.get("done", True) else {"next": reply.data["nextRecordsUrl"]}
    return page(reply.data["records"], _CHANGED, following, None if is_timeless else max)


async def _count(table: str, api: Api, partition: Partition, window: Window) -> Estimate | None:
    query = f"SELECT COUNT() FROM {table}{_where(table, window)}"
    return Estimate(int((await api.get(f"{ROOT}/queryAll", {"q": query})).data["totalSize"]), exact=True)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _key(ns: str, record_id: str) -> str:
    return f"{ns}:{_PREFIXES.get(record_id[:3], 'object')}:{record_id}"


def _own(row: JSON, context: Context, kind: str, name: str, *fields: str) -> Graph:
    return Graph(Entity(kind, _key(context.namespace, row["Id"]), name, _known(row, *fields)))


def _known(row: JSON, *fields: str) -> JSON:
    return facts(row, *fields, deleted=row.get("IsDeleted"))


def _owner(row: JSON, ns: str) -> Entity | None:
    """The owning user, or the queue in which a case or lead waits for one."""
    owner_id, name = row.get("OwnerId") or "", (row.get("Owner") or {}).get("Name")
    if owner_id.startswith("005"):
        return Entity("person", _key(ns, owner_id), name or "Salesforce user")
    return Entity("group", _key(ns, owner_id), name or "Queue") if owner_id.startswith("00G") else None


def _merged(said: Graph, row: JSON, ns: str) -> bool:
    """Whether the row lost a merge: then it is no thing of its own that was deleted, but another name of the winner, whose word
    counts though both are dated alike."""
    winner = row.get("MasterRecordId")
    if not (row.get("IsDeleted") and winner):
        return False
    own = said.entities[0]
    said.own, said.later = _key(ns, row["Id"]), -_MERGED_BEFORE
    said.entities[0] = Entity(own.kind, said.own, own.name, {}, (_key(ns, winner),))
    return True


# Which domain an account has and which address a contact, lead or user, only their own records say: a row that mentions them
# is not touched when that is put right, and would be proof of the wrong one for ever.


def _account_of(row: JSON, ns: str) -> Entity | None:
    account_id, account = row.get("AccountId"), row.get("Account") or {}
    return Entity("organization", _key(ns, account_id), account.get("Name") or "Account") if account_id else None


def _contact_of(row: JSON, ns: str, field: str, parent: str) -> Entity | None:
    """A contact or a lead."""
    contact_id, contact = row.get(field), row.get(parent) or {}
    return Entity("person", _key(ns, contact_id), contact.get("Name") or "Contact") if contact_id else None


def _mentions(row: JSON, *fields: str) -> Iterator[str]:
    for field in fields:
        yield from mentioned_emails(row.get(field))


def _extract_user(row: JSON, context: Context) -> Graph:
    own, known = _key(context.namespace, row["Id"]), facts(row, "Email", "Title", "Department", "IsActive")
    if row.get("UserType") in _NOBODY:
        return Graph(Entity("bot", own, row["Name"], known))
    # Of users whom it copies into a sandbox Salesforce makes the addresses such that no mail can reach them.
    return Graph(person(own, row["Name"], (row.get("Email") or "").removesuffix(".invalid"), known))


def _extract_account(row: JSON, context: Context) -> Graph:
    ns, own, parent = context.namespace, _key(context.namespace, row["Id"]), row.get("ParentId")
    if row.get("IsPersonAccount"):
        known = _known(row, "Industry", "Phone") | facts({}, Email=row.get("PersonEmail"))
        found = person(own, row["Name"], row.get("PersonEmail"), known)
        contact = [_key(ns, one) for one in (row.get("PersonContactId"),) if one]
        said = Graph(found._replace(aliases=(*found.aliases, *contact)))
    else:
        said = Graph(organization(own, row["Name"], row.get("Website"), _known(row, "Website", "Industry", "Phone")))
    if _merged(said, row, ns):
        return said
    if parent:
        said.to("part_of", Entity("organization", _key(ns, parent), (row.get("Parent") or {}).get("Name") or "Account"))
    said.to("owned_by", _owner(row, ns))
    return said


def _extract_contact(row: JSON, context: Context) -> Graph:
    ns, known = context.namespace, _known(row, "Email", "Phone", "Title")
    name = row.get("Name") or row.get("Email") or "Contact"
    said = Graph(person(_key(ns, row["Id"]), name, row.get("Email"), known))
    if _merged(said, row, ns):
        return said
    if row.get("AccountId") and (row.get("Account") or {}).get("IsPersonAccount"):
        # The other half of a person account, which works at no account but is one.
        own = said.entities[0]
        said.entities[0] = own._replace(aliases=(*own.aliases, _key(ns, row["AccountId"])))
    else:
        said.to("works_at", _account_of(row, ns))
    said.to("owned_by", _owner(row, ns))
    return said


def _extract_lead(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    known = _known(row, "Company", "Email", "Phone", "Title", "Website", "Status", "LeadSource")
    name = row.get("Name") or row.get("Email") or "Lead"
    said = Graph(person(_key(ns, row["Id"]), name, row.get("Email"), known))
    if _merged(said, row, ns):
        return said
    if contact := row.get("ConvertedContactId"):
        # From then on the contact says which address is whose; both are dated alike, and it knows more.
        said.own, said.later = _key(ns, row["Id"]), -_MERGED_BEFORE
        said.entities[0] = Entity("person", said.own, name, known, (_key(ns, contact),))
    if account := row.get("ConvertedAccountId"):
        said.refer("works_at", [_key(ns, account)])
    elif domain := domain_key(row.get("Website")):
        said.to("works_at", Entity("organization", domain, row.get("Company") or domain.rpartition(":")[2]))
    if deal := row.get("ConvertedOpportunityId"):
        said.referred("with", [_key(ns, deal)])
    said.to("owned_by", _owner(row, ns))
    return said


def _extract_opportunity(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    said = _own(
        row, context, "deal", row["Name"], "Amount", "CurrencyIsoCode", "StageName", "CloseDate", "IsWon", "IsClosed"
    )
    said.to("for_account", _account_of(row, ns))
    said.to("owned_by", _owner(row, ns))
    said.refer("mentions", _mentions(row, "Description"))
    return said


def _extract_role(row: JSON, context: Context) -> Graph:
    """Who has a part in a deal: a statement of the deal's."""
    ns = context.namespace
    name = (row.get("Opportunity") or {}).get("Name") or "Opportunity"
    said = besides(Entity("deal", _key(ns, row["OpportunityId"]), name), utc(row["SystemModstamp"]))
    if not row.get("IsDeleted"):
        said.to("with", _contact_of(row, ns, "ContactId", "Contact"))
    return said


def _extract_case(row: JSON, context: Context) -> Graph:
    ns, name = context.namespace, row.get("Subject") or f"Case {row.get('CaseNumber', '')}"
    said = _own(row, context, "case", name, "CaseNumber", "Status", "Priority", "IsClosed")
    if _merged(said, row, ns):
        return said
    said.to("raised_by", _contact_of(row, ns, "ContactId", "Contact"))
    said.to("for_account", _account_of(row, ns))
    said.to("assigned_to", _owner(row, ns))
    said.refer("mentions", _mentions(row, "Subject", "Description"))
    return said


def _extract_task(row: JSON, context: Context) -> Graph:
    said = _own(row, context, "task", row.get("Subject") or "Task", "Status", "Priority", "ActivityDate")
    said.to("assigned_to", _owner(row, context.namespace))
    return _activity(said, row, context.namespace)


def _extract_event(row: JSON, context: Context) -> Graph:
    """An entry in somebody's calendar: each user who is invited has one of their own, which says that it is a child."""
    shown = ("StartDateTime", "EndDateTime", "IsAllDayEvent", "IsChild", "Location")
    said = _own(row, context, "event", row.get("Subject") or "Event", *shown)
    said.by("attended", _owner(row, context.namespace))
    return _activity(said, row, context.namespace)


def _activity(said: Graph, row: JSON, ns: str) -> Graph:
    what = row.get("WhatId") or ""
    said.to("with", _contact_of(row, ns, "WhoId", "Who"))
    if kind := _KINDS.get(_PREFIXES.get(what[:3], "")):
        said.to("about", Entity(kind, _key(ns, what), (row.get("What") or {}).get("Name") or kind.capitalize()))
    said.refer("mentions", _mentions(row, "Subject", "Description"))
    return said


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/services/oauth2/userinfo")
    who = reply.data
    label = who.get("email") or who.get("preferred_username") or who.get("name") or who["organization_id"]
    return Account(str(who["organization_id"]), str(label), None, {"user_id": who.get("user_id")})


async def _revoke(grant: Revocation) -> None:
    token = {"token": grant.refresh_token or grant.access_token}
    await grant.api.request("POST", "/services/oauth2/revoke", form=token, auth=("", ""))


def _token_facts(token: Mapping[str, Any]) -> JSON:
    return {"instance_url": token["instance_url"]} if token.get("instance_url") else {}


def _token_reply(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What passes is told by the errors of what does not: only the words tell them apart."""
    said = str(answer.get("error_description") or "").lower()
    return {**answer, "error": "temporarily_unavailable"} if any(words in said for words in _PASSING) else answer


def _stream(name: str, label: str, table: str, extract: Extract) -> Stream:
    window = WindowKind.SNAPSHOT if table in _TIMELESS else WindowKind.EXACT
    fetch, count = partial(_fetch, table), partial(_count, table)
    return Stream(name, label, window, fetch, extract, count, needs=("api",), page_size=2000, record=_CHANGED)


SALESFORCE = Provider(
    slug="salesforce",
    name="Salesforce",
    category="Sales",
    summary="Customers and deals: accounts, contacts, leads, opportunities, cases and what was done about them.",
    brings=("Accounts", "Contacts", "Leads", "Opportunities and who has a part in them", "Cases", "Tasks", "Events", "Users"),
    api_url=LOGIN,
    auth_url=LOGIN,
    api_root=_api_root,
    auth_root=_auth_root,
    asks=(
        Question(
            "login_host", "Where you sign in",
            "login.salesforce.com; test.salesforce.com for a sandbox; or your own domain, as in acme.my.salesforce.com.",
            _LOGIN_HOST, "login.salesforce.com", "login.salesforce.com",
        ),
    ),
    identify=_identify,
    classify=_classify,
    expired=_is_expired,
    rate_state=_rate_state,
    # The org's own limit arrives with the first reply; this is what the smallest org has.
    budget=RateBudget(requests=15_000, seconds=86_400, concurrency=5),
    oauth=OAuth(
        "/services/oauth2/authorize", "/services/oauth2/token", ("api", "refresh_token", "openid", "email"),
        revoke=_revoke, token_facts=_token_facts, token_reply=_token_reply,
    ),
    patience=150,  # a query is given up after two minutes, and then says so
    settle=timedelta(minutes=5),
    ids_by_account=True,  # a sandbox has its production's ids
    streams=(
        _stream("users", "Users", "User", _extract_user),
        _stream("accounts", "Accounts", "Account", _extract_account),
        _stream("contacts", "Contacts", "Contact", _extract_contact),
        _stream("leads", "Leads", "Lead", _extract_lead),
        _stream("opportunities", "Opportunities", "Opportunity", _extract_opportunity),
        _stream("contact_roles", "Contact roles", "OpportunityContactRole", _extract_role),
        _stream("cases", "Cases", "Case", _extract_case),
        _stream("tasks", "Tasks", "Task", _extract_task),
        _stream("events", "Events", "Event", _extract_event),
    ),
)  # fmt: skip
