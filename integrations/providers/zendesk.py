"""Zendesk Support by its incremental exports: tickets, comments, people, organizations; groups and satisfaction ratings by lists."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
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
)
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
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
    Record,
    Relationship,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import MOST_MENTIONS, domain_key, email_key, mentioned_emails
from integrations.providers.wire import Rejected, reader, records

HOME = "https://www.zendesk.com"  # stands for the account's own host until its subdomain is known
_SUBDOMAIN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NUMBER = re.compile(r"(?<![\w/&#])#(\d{1,18})\b")
_LINK = re.compile(rf"https://({_SUBDOMAIN})\.zendesk\.com/(?:agent/|hc/[\w-]+/)?(?:tickets|requests)/(\d{{1,18}})\b")

# -- wire format --------------------------------------------------------------------------------------------------------------


def _classify(reply: Reply) -> ProviderError | None:
    """By status: bodies are JSON of three shapes, or empty, or a web page."""
    status = reply.status
    if status == 429:
        return Throttled("Zendesk asks to slow down.", reply.retry_at() or datetime.now(UTC) + timedelta(minutes=1))
    if status == 403:
        return AccessDenied("Zendesk does not let this user read it: exports need an administrator's access.")
    if status == 404 and reply.data is None:
        return Misconfigured("Zendesk has no account at this address: check the subdomain.")
    if status in (400, 422) and "cursor" in reply.text.lower():
        return CursorExpired("Zendesk no longer knows the page; going on by date.")
    return None


def _time(value: Any) -> datetime:
    """Of "2025-01-03T09:00:00Z" or of Unix seconds."""
    return datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)


def _records(rows: list[Any], time_of: str) -> tuple[list[Record], list[Rejected]]:
    return records(rows, reader(lambda row: row["id"], lambda row: _time(row[time_of])))


def _host(root: str, facts: Mapping[str, Any]) -> str:
    """The account's own address, when the deployment has not pointed Zendesk somewhere else."""
    if root != HOME:
        return root
    subdomain = str(facts.get("subdomain") or "")
    if not re.fullmatch(_SUBDOMAIN, subdomain):
        raise Misconfigured("Zendesk needs the account's subdomain.")
    return f"https://{subdomain}.zendesk.com"


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _by_cursor(rows: str, time_of: str) -> Callable[..., Any]:
    """An export by cursor, oldest first. It has no end but the present: the window's is looked for in the rows."""

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        start = {"start_time": int(window.since.timestamp()), "per_page": 1000}
        data = (await api.get(f"/api/v2/incremental/{rows}/cursor.json", cursor or start)).data
        found, rejected = _records(data[rows], time_of)
        last = max((record.occurred_at for record in found), default=None)
        if data["end_of_stream"] or (last is not None and last >= window.until):
            return Page(found, None, last, rejected)
        return Page(found, {"cursor": data["after_cursor"]}, last, rejected)

    return fetch


async def _by_time(api: Api, rows: str, window: Window, cursor: JSON | None, **params: Any) -> tuple[JSON, JSON | None]:
    """An export by time, oldest first: (page, cursor of the next). Rows of the second that a page ends in come again."""
    url = cursor["url"] if cursor else f"/api/v2/incremental/{rows}.json"
    data = (await api.get(url, None if cursor else {"start_time": int(window.since.timestamp()), **params})).data
    following = data.get("next_page")
    if data["end_of_stream"] or not following or int(data["end_time"] or 0) >= window.until.timestamp():
        return data, None
    if cursor and following == url:
        raise RequestRejected(f"Zendesk lists no end of {rows} of one second.")
    return data, {"url": following}


async def _fetch_organizations(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    data, following = await _by_time(api, "organizations", window, cursor)
    found, rejected = _records(data["organizations"], "updated_at")
    return Page(found, following, found[-1].occurred_at if found else None, rejected)


async def _fetch_comments(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """The changes of tickets that hold a comment, each as the change that it came with."""
    data, following = await _by_time(api, "ticket_events", window, cursor, include="comment_events")
    last = _time(data["ticket_events"][-1]["timestamp"]) if data["ticket_events"] else None
    found, rejected = _records([row for row in data["ticket_events"] if _comment(row)], "timestamp")
    return Page(found, following, last, rejected)


def _comment(event: JSON) -> JSON | None:
    return next((child for child in event.get("child_events") or () if child.get("event_type") == "Comment"), None)


def _listed(path: str, rows: str, time_of: str, *, windowed: bool) -> Callable[..., Any]:
    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        span = {"start_time": int(window.since.timestamp()), "end_time": int(window.until.timestamp()) + 1}
        params = {"page[size]": 100, **(span if windowed else {}), **(cursor or {})}
        data = (await api.get(path, params)).data
        found, rejected = _records(data[rows], time_of)
        more = data["meta"]["has_more"]
        return Page(found, {"page[after]": data["meta"]["after_cursor"]} if more else None, None, rejected)

    return fetch


def _count(kind: str) -> Callable[..., Any]:
    """The search counts by `updated`, which exports go beyond: also what Zendesk itself changed is in them."""

    async def count(api: Api, partition: Partition, window: Window) -> Estimate | None:
        since, until = (
            moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (window.since, window.until)
        )
        query = f"type:{kind} updated>={since} updated<{until}"
        return Estimate(int((await api.get("/api/v2/search/count.json", {"query": query})).data["count"]), exact=False)

    return count


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _links(ns: str, row: JSON, source: str, *links: tuple[str, str, str]) -> list[Relationship]:
    """links: (field that holds an id, what it is the id of, relationship)."""
    return [Relationship(said, source, f"{ns}:{kind}:{row[name]}") for name, kind, said in links if row.get(name)]


def _mentions(source: str, ns: str, *texts: str | None) -> list[Relationship]:
    text = "\n".join(text for text in texts if text)
    found = [f"{ns}:ticket:{int(number)}" for number in _NUMBER.findall(text)]
    found += [f"zendesk@{subdomain}:ticket:{int(number)}" for subdomain, number in _LINK.findall(text)]
    keys = dict.fromkeys([*found[:MOST_MENTIONS], *mentioned_emails(text)])
    return [Relationship("mentions", source, key) for key in keys if key != source]


def _facts(row: JSON, *names: str) -> JSON:
    return {name: row[name] for name in names if row.get(name) not in (None, "")}


def _extract_ticket(row: JSON, context: Context) -> Graph:
    ns, key = context.namespace, f"{context.namespace}:ticket:{row['id']}"
    facts = _facts(row, "status", "priority", "type", "created_at")
    if row.get("url"):
        facts["url"] = f"https://{urlsplit(row['url']).hostname}/agent/tickets/{row['id']}"
    if row.get("status") == "deleted":
        facts["deleted"] = True
    labels = [Entity("label", f"{ns}:tag:{tag}", tag) for tag in row.get("tags") or ()]
    ticket = Entity("ticket", key, row.get("subject") or row.get("raw_subject") or f"Ticket {row['id']}", facts)
    said = _links(
        ns, row, key, ("requester_id", "user", "raised_by"), ("assignee_id", "user", "assigned_to"),
        ("group_id", "group", "assigned_to"), ("organization_id", "organization", "for_account"), ("problem_id", "ticket", "about"),
    )  # fmt: skip
    said += [Relationship("with", key, f"{ns}:user:{user}") for user in row.get("collaborator_ids") or ()]
    said += [Relationship("labelled", key, label.key) for label in labels]
    return Graph([ticket, *labels], said + _mentions(key, ns, row.get("subject"), row.get("description")))


def _extract_comment(row: JSON, context: Context) -> Graph:
    ns, comment = context.namespace, _comment(row)
    assert comment is not None
    key, text = f"{ns}:comment:{comment['id']}", comment.get("plain_body") or comment.get("body") or ""
    name = text.strip().partition("\n")[0][:120] or "(empty comment)"
    message = Entity("message", key, name, _facts(comment, "public", "created_at"))
    said = _links(ns, row, key, ("ticket_id", "ticket", "comment_on"))
    if author := comment.get("author_id") or row.get("updater_id"):
        said.append(Relationship("authored", f"{ns}:user:{author}", key))
    return Graph([message], said + _mentions(key, ns, text))


def _extract_user(row: JSON, context: Context) -> Graph:
    ns, own, address = context.namespace, f"{context.namespace}:user:{row['id']}", email_key(row.get("email"))
    facts = _facts(row, "email", "phone", "role", "time_zone")
    if row.get("active") is False:
        facts["deleted"] = True
    name = row.get("name") or row.get("email") or f"User {row['id']}"
    person = Entity("person", address or own, name, facts, (own,) if address else ())
    return Graph([person], _links(ns, row, person.key, ("organization_id", "organization", "works_at")))


def _extract_organization(row: JSON, context: Context) -> Graph:
    own = f"{context.namespace}:organization:{row['id']}"
    domains = [key for key in map(domain_key, row.get("domain_names") or ()) if key]
    facts = _facts(row, "details", "notes", "domain_names")
    if row.get("deleted_at"):
        facts["deleted"] = True
    first, *others = [*dict.fromkeys(domains), own]
    return Graph([Entity("organization", first, row.get("name") or "Organization", facts, tuple(others))], [])


def _extract_group(row: JSON, context: Context) -> Graph:
    facts = _facts(row, "description", "deleted")
    return Graph([Entity("group", f"{context.namespace}:group:{row['id']}", row.get("name") or "Group", facts)], [])


def _extract_rating(row: JSON, context: Context) -> Graph:
    ns, key = context.namespace, f"{context.namespace}:rating:{row['id']}"
    rating = Entity("event", key, f"Rated {row['score']}", _facts(row, "score", "comment", "reason", "created_at"))
    said = _links(ns, row, key, ("ticket_id", "ticket", "about"), ("assignee_id", "user", "about"))
    if row.get("requester_id"):
        said.append(Relationship("authored", f"{ns}:user:{row['requester_id']}", key))
    return Graph([rating], said + _mentions(key, ns, row.get("comment")))


# -- who ----------------------------------------------------------------------------------------------------------------------


def _auth_header(token: str) -> dict[str, str]:
    """An OAuth token, or "jane@acme.com/token:..." with an API token."""
    if "/token:" in token:
        return {"Authorization": "Basic " + base64.b64encode(token.encode()).decode()}
    return {"Authorization": f"Bearer {token}"}


async def _identify(api: Api) -> Account:
    who = (await api.get("/api/v2/users/me.json")).data["user"]
    if not who.get("id"):  # how Zendesk calls somebody that it does not know
        raise ReauthRequired("Zendesk does not know this token.")
    subdomain = (urlsplit(who["url"]).hostname or "").removesuffix(".zendesk.com")
    return Account(subdomain, f"{subdomain}.zendesk.com", None, {"subdomain": subdomain, "role": who.get("role")})


async def _revoke(grant: Revocation) -> None:
    """By id: "current" is said to answer 204 and to change nothing."""
    headers = _auth_header(grant.access_token)
    token = (await grant.api.get("/api/v2/oauth/tokens/current.json", headers=headers)).data["token"]
    await grant.api.request("DELETE", f"/api/v2/oauth/tokens/{token['id']}.json", headers=headers)


_READ = ("read",)

ZENDESK = Provider(
    slug="zendesk",
    name="Zendesk",
    category="Support",
    summary="What customers ask: tickets, the talk on them, people and organizations.",
    brings=("Tickets", "Comments", "People", "Organizations", "Satisfaction ratings"),
    api_url=HOME,
    auth_url=HOME,
    asks=(Question("subdomain", "Subdomain", "The first part of your Zendesk address, as in acme.zendesk.com.", _SUBDOMAIN, placeholder="acme"),),
    api_root=_host,
    auth_root=_host,
    auth_header=_auth_header,
    identify=_identify,
    classify=_classify,
    # Of exports; other requests have 200 a minute and more, by plan.
    budget=RateBudget(requests=10, seconds=60, concurrency=2),
    oauth=OAuth(
        "/oauth/authorizations/new", "/oauth/tokens", _READ, revoke=_revoke,
        extra_token={"expires_in": "7200", "refresh_token_expires_in": "7776000"},
    ),
    token_help="An administrator's address and API token, as in jane@acme.com/token:6wiIBWbGkBMo1mRDMuVwkw1EPsNkeUj95PIz2akv.",
    settle=timedelta(minutes=2),
    ids_by_account=True,
    streams=(
        Stream("groups", "Groups", WindowKind.SNAPSHOT, _listed("/api/v2/groups.json", "groups", "updated_at", windowed=False), _extract_group, needs=_READ),
        Stream("organizations", "Organizations", WindowKind.LOWER_BOUND, _fetch_organizations, _extract_organization, _count("organization"), needs=_READ, page_size=1000),
        Stream("users", "People", WindowKind.LOWER_BOUND, _by_cursor("users", "updated_at"), _extract_user, _count("user"), needs=_READ, page_size=1000),
        Stream("tickets", "Tickets", WindowKind.LOWER_BOUND, _by_cursor("tickets", "generated_timestamp"), _extract_ticket, _count("ticket"), needs=_READ, page_size=1000),
        Stream("comments", "Comments", WindowKind.LOWER_BOUND, _fetch_comments, _extract_comment, needs=_READ, page_size=1000, clock=Clock.CREATED),
        Stream(
            "ratings", "Satisfaction ratings", WindowKind.EXACT, _listed("/api/v2/satisfaction_ratings.json", "satisfaction_ratings", "created_at", windowed=True),
            _extract_rating, needs=_READ, clock=Clock.CREATED,
        ),
    ),
)  # fmt: skip
