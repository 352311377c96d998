"""Zendesk Support by its incremental exports: tickets, comments, people, organizations; groups and satisfaction ratings by lists."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
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
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts, headline, organization, person
from integrations.providers.replies import ErrorTable, Means, error_in
from integrations.providers.text import MOST_MENTIONS, mentioned_emails
from integrations.providers.wire import Rows, epoch, page, pages, reader, stamp, ticks, utc

MOST_ROWS = 1000  # of an export's page
HOME = "https://www.zendesk.com"  # stands for the account's own host until its subdomain is known
_ZENDESK = -1  # who acts where no user does
_SUBDOMAIN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NUMBER = re.compile(r"(?<![\w/&#])#(\d{1,18})\b")
_LINK = re.compile(rf"https://({_SUBDOMAIN})\.zendesk\.com/(?:agent/|hc/[\w-]+/)?(?:tickets|requests)/(\d{{1,18}})\b")

# -- wire format --------------------------------------------------------------------------------------------------------------

# By status: bodies are JSON of three shapes, or empty, or a web page.
_ERRORS: ErrorTable = {
    403: Means(AccessDenied, "Zendesk does not let this user read it: exports need an administrator's access."),
    429: Means(Throttled, "Zendesk asks to slow down.", wait=60),
    "no account": Means(Misconfigured, "Zendesk has no account at this address: check the subdomain."),
    "dead cursor": Means(CursorExpired, "Zendesk no longer knows the page; going on by date."),
}


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status == 404 and reply.data is None:
        return error_in(_ERRORS, reply, "no account")
    is_cursor = reply.status in (400, 422) and "cursor" in reply.text.lower()
    return error_in(_ERRORS, reply, "dead cursor" if is_cursor else "")


_UPDATED, _CREATED = reader("id", "updated_at"), reader("id", "created_at")
_GENERATED = reader("id", lambda row: epoch(row["generated_timestamp"]))
_EVENT = reader("id", lambda row: _time(row["timestamp"]))


def _time(value: Any) -> datetime:
    """Of "2025-01-03T09:00:00Z" or of Unix seconds."""
    return utc(value) if isinstance(value, str) else epoch(value)


def _host(root: str, facts: Mapping[str, Any]) -> str:
    """The account's own address, when the deployment has not pointed Zendesk somewhere else."""
    if root != HOME:
        return root
    subdomain = str(facts.get("subdomain") or "")
    if not re.fullmatch(_SUBDOMAIN, subdomain):
        raise Misconfigured("Zendesk needs the account's subdomain.")
    return f"https://{subdomain}.zendesk.com"


# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _by_cursor(name: str, api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """An export by cursor, oldest first. It has no end but the present: the window's is looked for in the rows."""
    asked = cursor or {"start_time": ticks(window)[0], "per_page": MOST_ROWS}
    data = (await api.get(f"/api/v2/incremental/{name}/cursor.json", asked)).data
    found = page(data[name], _GENERATED if name == "tickets" else _UPDATED, {"cursor": data["after_cursor"]}, max)
    is_over = data["end_of_stream"] or (found.position is not None and found.position >= window.until)
    return found._replace(next_cursor=None) if is_over else found


async def _by_time(api: Api, rows: str, window: Window, cursor: JSON | None, **params: Any) -> tuple[JSON, JSON | None]:
    """An export by time, oldest first: (page, cursor of the next). Rows of the second that a page ends in come again."""
    url = cursor["url"] if cursor else f"/api/v2/incremental/{rows}.json"
    data = (await api.get(url, None if cursor else {"start_time": ticks(window)[0], **params})).data
    following = data.get("next_page")
    # Not every export by time says whether it is over; then a page that is not full is the last.
    is_over = data.get("end_of_stream", int(data.get("count") or 0) < MOST_ROWS)
    if is_over or not following or int(data["end_time"] or 0) >= window.until.timestamp():
        return data, None
    if cursor and following == url:
        raise RequestRejected(f"Zendesk lists no end of {rows} of one second.")
    return data, {"url": following}


async def _organizations(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    data, following = await _by_time(api, "organizations", window, cursor)
    return data["organizations"], following


async def _fetch_comments(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """The changes of tickets that hold a comment, each as the change that it came with."""
    data, following = await _by_time(api, "ticket_events", window, cursor, include="comment_events")
    rows = data["ticket_events"]
    found = page([row for row in rows if _comment(row)], _EVENT, following)
    return found._replace(position=_time(rows[-1]["timestamp"]) if rows else None)


def _comment(event: JSON) -> JSON | None:
    return next((child for child in event.get("child_events") or () if child.get("event_type") == "Comment"), None)


async def _listed(
    name: str, windowed: bool, api: Api, partition: Partition, window: Window, cursor: JSON | None
) -> Rows:
    since, until = ticks(window)
    span = {"start_time": since, "end_time": until} if windowed else {}
    data = (await api.get(f"/api/v2/{name}.json", {"page[size]": 100, **span, **(cursor or {})})).data
    return data[name], {"page[after]": data["meta"]["after_cursor"]} if data["meta"]["has_more"] else None


async def _count(kind: str, api: Api, partition: Partition, window: Window) -> Estimate | None:
    """The search counts by `updated`, which exports go beyond: also what Zendesk itself changed is in them."""
    query = f"type:{kind} updated>={stamp(window.since)} updated<{stamp(window.until)}"
    return Estimate(int((await api.get("/api/v2/search/count.json", {"query": query})).data["count"]), exact=False)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _mentions(context: Context, *texts: str | None) -> Iterator[str]:
    text = "\n".join(text for text in texts if text)
    found = [context.key("ticket", int(number)) for number in _NUMBER.findall(text)]
    found += [f"zendesk@{subdomain}:ticket:{int(number)}" for subdomain, number in _LINK.findall(text)]
    yield from found[:MOST_MENTIONS]
    yield from mentioned_emails(text)


def _extract_ticket(row: JSON, context: Context) -> Graph:
    known = facts(row, "status", "priority", "type", "created_at", deleted=row.get("status") == "deleted")
    if row.get("url"):
        known["url"] = f"https://{urlsplit(row['url']).hostname}/agent/tickets/{row['id']}"
    name = row.get("subject") or row.get("raw_subject") or f"Ticket {row['id']}"
    said = Graph(Entity("ticket", context.key("ticket", row["id"]), name, known))
    said.refer("raised_by", context.keys("user", row.get("requester_id")))
    said.refer("assigned_to", context.keys("user", row.get("assignee_id")))
    said.refer("assigned_to", context.keys("group", row.get("group_id")))
    said.refer("for_account", context.keys("organization", row.get("organization_id")))
    said.refer("about", context.keys("ticket", row.get("problem_id")))
    others = [one for who in ("collaborator", "email_cc", "follower") for one in row.get(f"{who}_ids") or ()]
    said.refer("with", context.keys("user", *others))
    said.to("labelled", *(Entity("label", context.key("tag", tag), tag) for tag in row.get("tags") or ()))
    said.refer("mentions", _mentions(context, row.get("subject"), row.get("description")))
    return said


def _extract_comment(row: JSON, context: Context) -> Graph:
    comment = _comment(row)
    assert comment is not None
    text = comment.get("plain_body") or comment.get("body") or ""
    name, known = headline(text, "(empty comment)"), facts(comment, "public", "created_at")
    said = Graph(Entity("message", context.key("comment", comment["id"]), name, known))
    said.refer("comment_on", context.keys("ticket", row.get("ticket_id")))
    author = comment.get("author_id") or row.get("updater_id")
    if author == _ZENDESK:
        said.by("authored", Entity("bot", context.key("user", author), "Zendesk"))
    else:
        said.referred("authored", context.keys("user", author))
    said.refer("mentions", _mentions(context, text))
    return said


def _extract_user(row: JSON, context: Context) -> Graph:
    known = facts(row, "email", "phone", "role", "time_zone", deleted=row.get("active") is False)
    name = row.get("name") or row.get("email") or f"User {row['id']}"
    said = Graph(person(context.key("user", row["id"]), name, row.get("email"), known))
    said.refer("works_at", context.keys("organization", row.get("organization_id")))
    return said


def _extract_organization(row: JSON, context: Context) -> Graph:
    own, name = context.key("organization", row["id"]), row.get("name") or "Organization"
    known = facts(row, "details", "notes", "domain_names", deleted=row.get("deleted_at"))
    return Graph(organization(own, name, row.get("domain_names") or [], known))


def _extract_group(row: JSON, context: Context) -> Graph:
    known = facts(row, "description", "deleted")
    return Graph(Entity("group", context.key("group", row["id"]), row.get("name") or "Group", known))


def _extract_rating(row: JSON, context: Context) -> Graph:
    known = facts(row, "score", "comment", "reason", "created_at")
    # All that were ever asked for are listed; of most nothing comes.
    is_given = row["score"] not in ("offered", "unoffered")
    name = f"Rated {row['score']}" if is_given else "Not rated"
    said = Graph(Entity("event", context.key("rating", row["id"]), name, known))
    said.refer("about", context.keys("ticket", row.get("ticket_id")))
    said.refer("about", context.keys("user", row.get("assignee_id")))
    said.referred("authored", context.keys("user", row.get("requester_id") if is_given else None))
    said.refer("mentions", _mentions(context, row.get("comment")))
    return said


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
        # A refresh token for less than the 90 days that are the bound.
        extra_token={"scope": "read", "expires_in": "7200", "refresh_token_expires_in": str(89 * 86_400)},
    ),
    token_help="An administrator's address and API token, as in jane@acme.com/token:6wiIBWbGkBMo1mRDMuVwkw1EPsNkeUj95PIz2akv.",
    settle=timedelta(minutes=2),
    ids_by_account=True,
    streams=(
        Stream(
            "groups", "Groups", WindowKind.SNAPSHOT, pages(partial(_listed, "groups", False), _UPDATED), _extract_group,
            needs=_READ, record=_UPDATED,
        ),
        Stream(
            "organizations", "Organizations", WindowKind.LOWER_BOUND, pages(_organizations, _UPDATED, max),
            _extract_organization, partial(_count, "organization"), needs=_READ, page_size=1000, record=_UPDATED,
        ),
        Stream(
            "users", "People", WindowKind.LOWER_BOUND, partial(_by_cursor, "users"), _extract_user,
            partial(_count, "user"), needs=_READ, page_size=1000, record=_UPDATED,
        ),
        Stream(
            "tickets", "Tickets", WindowKind.LOWER_BOUND, partial(_by_cursor, "tickets"), _extract_ticket,
            partial(_count, "ticket"), needs=_READ, page_size=1000, record=_GENERATED,
        ),
        Stream(
            "comments", "Comments", WindowKind.LOWER_BOUND, _fetch_comments, _extract_comment, clock=Clock.CREATED,
            needs=_READ, page_size=1000, record=_EVENT,
        ),
        Stream(
            "ratings", "Satisfaction ratings", WindowKind.EXACT, pages(partial(_listed, "satisfaction_ratings", True), _CREATED), _extract_rating,
            needs=_READ, clock=Clock.CREATED, record=_CREATED,
        ),
    ),
)  # fmt: skip
