"""Jira Cloud's REST API, version 3: projects, people, issues, comments, work logged and changes, of every site that was granted.

That an issue, a comment or work logged was deleted is found by a full import: searches and lists no longer have it, and Jira keeps no
trace of it. What a level of security hides from this account, or was moved to a project that it does not see, is answered in the same way.

Sprints are known by the issues that were planned in them, as versions are; their dates and goals are behind another API and scope.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Misconfigured,
    NotFound,
    ProviderError,
    RecordRejected,
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
    Extract,
    FindGone,
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Record,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts, headline, person
from integrations.providers.replies import body, inner, rate_headers, reset_of
from integrations.providers.text import MOST_MENTIONS, mentioned_emails
from integrations.providers.wire import (
    EPOCH,
    MILLISECOND,
    Rows,
    all_rows,
    listing,
    page,
    partitions_in,
    reader,
    rows_in,
    utc,
)

REST = "/rest/api/3"
API = "https://api.atlassian.com"
_MINUTE = timedelta(minutes=1)
_FIELDS = (
    "summary,description,status,issuetype,priority,project,assignee,reporter,creator,created,updated,resolutiondate,duedate,"
    "labels,components,fixVersions,parent,issuelinks"
)
# Where a search cuts off what hangs on an issue: 20 comments or work logs, 20, 40 or once 100 changes. That there are more is not always
# told, as the total of such a list is, in Atlassian's words, "the number of results on the page".
_CUT = (20, 40, 100)
_UNKNOWN = "unknown"  # the id of all accounts that Jira has lost, by an import of a server's data say
# Nodes of a text that begin a line. Items of tasks and decisions hold their text without a paragraph.
_LINES = ("paragraph", "heading", "hardBreak", "listItem", "taskItem", "decisionItem", "codeBlock")
_KEY = re.compile(r"(?<![\w-])([A-Z][A-Z0-9_]{1,9}-[1-9]\d{0,6})(?![\w-])")
# The type of the custom field that holds an issue's sprints, whose id is each site's own.
_SPRINT = "com.pyxis.greenhopper.jira:gh-sprint"
# What looks like an issue's key and is none.
_NOT_KEYS = ("UTF-", "SHA-", "ISO-", "RFC-", "CVE-", "TLS-", "HTTP-", "COVID-", "AES-", "MD-", "UTC-", "GMT-")


# -- wire format --------------------------------------------------------------------------------------------------------------


def _classify(reply: Reply) -> ProviderError | None:
    refusal = body(reply)
    if reply.status == 401 and "scope" in str(refusal.get("message", "")):
        return AccessDenied("Jira does not let this connection read it: a scope is missing. Reconnect to grant it.")
    if reply.status == 429:
        reason = reply.headers.get("ratelimit-reason", "")
        reset = reset_of(reply)
        at = reply.retry_at() or (reply.by_our_clock(reset) if reset else datetime.now(UTC) + timedelta(seconds=10))
        if reason.startswith("jira-quota"):
            whose = "this app" if "global" in reason else "this site"
            return Throttled(f"Jira's hourly quota for {whose} is used up.", at)
        return Throttled("Jira asks to slow down.", at)
    if reply.status == 400:
        words = " ".join(map(str, refusal.get("errorMessages") or ())) or reply.text[:200]
        if "does not exist for the field 'project'" in words:
            return AccessDenied("Jira no longer shows this project.")
        return RequestRejected(f"Jira refused the request: {words[:300]}")
    return None


# -- sites and projects -------------------------------------------------------------------------------------------------------


def _is_personal(token: str | None) -> bool:
    """An API token comes as "address:token" and is good for one site; one of OAuth is a JWT, which has no colon."""
    return ":" in (token or "")


def _auth_header(token: str) -> dict[str, str]:
    if not _is_personal(token):
        return {"Authorization": f"Bearer {token}"}
    return {"Authorization": "Basic " + base64.b64encode(token.encode()).decode()}


async def _sites(api: Api) -> list[JSON]:
    """The Jira sites that the connection reaches: id, name, url, and base, the path that their API's paths are joined to."""
    if _is_personal(api.token):
        if api.root.rstrip("/") == API:
            raise Misconfigured("An API token of Jira is good for one site: give the site's address too.")
        return [{"id": urlsplit(api.root).netloc, "name": urlsplit(api.root).netloc, "url": api.root, "base": REST}]
    found = {}
    for row in (await api.get("/oauth/token/accessible-resources")).data:
        # Confluence's sites are listed too, under the same id.
        if any("jira" in scope for scope in row["scopes"]):
            base = f"/ex/jira/{row['id']}{REST}"
            found[row["id"]] = {"id": row["id"], "name": row["name"], "url": row["url"], "base": base}
    return list(found.values())


async def _list_projects(
    api: Api, site: JSON, cursor: JSON | None, states: tuple[str, ...] = ("live", "archived")
) -> Rows:
    start = cursor["start"] if cursor else 0
    asked = {"startAt": start, "maxResults": 50, "status": states, "expand": "lead"}
    data = (await api.get(f"{site['base']}/project/search", asked)).data
    rows = data["values"]
    return rows, None if data.get("isLast", True) or not rows else {"start": start + len(rows)}


async def _list_users(api: Api, site: JSON, cursor: JSON | None) -> Rows:
    start = cursor["start"] if cursor else 0
    rows = (await api.get(f"{site['base']}/users/search", {"startAt": start, "maxResults": 1000})).data
    return rows, {"start": start + len(rows)} if rows else None


async def _sprint_fields(api: Api, site: JSON) -> list[str]:
    """Ids of the fields of issues that hold their sprints; none where the site does not tell."""
    try:
        rows = (await api.get(f"{site['base']}/field")).data
    except AccessDenied:
        return []
    return [row["id"] for row in rows if inner(row, "schema").get("custom") == _SPRINT]


async def _partitions(api: Api) -> list[Partition]:
    """The projects of all sites. What is archived can't be searched."""

    async def projects_of(site: JSON) -> list[Partition]:
        found = []
        rows = await all_rows(partial(_list_projects, api, site, states=("live",)), api.longest_wait)
        sprints = await _sprint_fields(api, site) if rows else []
        known = {"site": site["id"], "url": site["url"], "base": site["base"], "sprints": sprints}
        for row in rows:
            key, label = f"{site['id']}:{row['id']}", f"{row['name']} ({row['key']})"
            found.append(Partition(key, label, {**known, "project": str(row["id"])}))
        return found

    return await partitions_in(await _sites(api), projects_of)


# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _by_site(
    list_rows: Callable[[Api, JSON, JSON | None], Awaitable[Rows]], api: Api, cursor: JSON | None
) -> Rows:
    """Lists that a site has one of, site after site."""

    async def rows_of(site: JSON, at: JSON | None) -> Rows:
        rows, following = await list_rows(api, site, at)
        return [{**row, "site": site} for row in rows], following

    return await rows_in(partial(_sites, api), rows_of, cursor)


async def _search(api: Api, partition: Partition, cursor: JSON | None, asked: JSON) -> JSON:
    if cursor:
        asked["nextPageToken"] = cursor["token"]
    try:
        return (await api.request("POST", f"{partition.facts['base']}/search/jql", json=asked)).data
    except RequestRejected:
        if cursor:  # page tokens live for seven days
            raise CursorExpired("Jira no longer knows the page; going on by date.") from None
        raise


def _condition(partition: Partition, window: Window, *, bounded: bool = True) -> str:
    """JQL for the window. Times are absolute as milliseconds (in words they would be read in the user's time zone), but may be
    taken by the minute: so a minute more on either side."""
    since, until = ((moment - EPOCH) // MILLISECOND for moment in (window.since - _MINUTE, window.until + _MINUTE))
    jql = f"project = {partition.facts['project']} AND updated >= {since}"
    return f"{jql} AND updated < {until}" if bounded else jql


def _next(data: JSON) -> JSON | None:
    token = data.get("nextPageToken")
    return {"token": token} if token and not data.get("isLast") else None


async def _fetch_issues(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    jql = f"{_condition(partition, window)} ORDER BY updated ASC, key ASC"
    fields = [*_FIELDS.split(","), *partition.facts.get("sprints", ())]
    data = await _search(api, partition, cursor, {"jql": jql, "maxResults": 100, "fields": fields})
    site = partition.facts["site"]
    read = reader(lambda row: f"{site}:{row['id']}", lambda row: utc(row["fields"]["updated"]))
    return page(data["issues"], read, _next(data), max)


async def _count_issues(api: Api, partition: Partition, window: Window) -> Estimate | None:
    jql = _condition(partition, window)
    reply = await api.request("POST", f"{partition.facts['base']}/search/approximate-count", json={"jql": jql})
    return Estimate(int(reply.data["count"]), exact=False)


async def _fetch_parts(
    name: str, listed: str, time_of: str, api: Api, partition: Partition, window: Window, cursor: JSON | None
) -> Page:
    """What hangs on issues: comments, worklogs, changes. Each is as old as its issue's last update or older, so all issues that
    were updated since the window's beginning are read, to this day; by their age, which no update moves while we read."""
    jql = f"{_condition(partition, window, bounded=False)} ORDER BY created ASC, key ASC"
    is_change, site = name == "changelog", partition.facts["site"]
    asked: JSON = {"jql": jql, "maxResults": 50, "fields": ["updated" if is_change else name]}
    data = await _search(api, partition, cursor, {**asked, "expand": name} if is_change else asked)
    parts: list[JSON] = []
    for issue in data["issues"]:
        part = issue.get(name) or issue["fields"].get(name) or {}
        rows = part.get("histories" if is_change else listed) or []
        if len(rows) < part.get("total", 0) or len(rows) in _CUT:  # only some come with the issue
            rows = await _all(api, f"{partition.facts['base']}/issue/{issue['id']}/{name}", listed, rows)
        parts += [{**row, "issue": {"id": issue["id"], "key": issue["key"]}} for row in rows]
    found = page(parts, reader(lambda row: f"{site}:{row['id']}", time_of), _next(data))
    return found._replace(records=[record for record in found.records if record.occurred_at in window])


async def _all(api: Api, path: str, listed: str, first: list[JSON]) -> list[JSON]:
    async def rows_at(cursor: JSON | None) -> Rows:
        start = cursor["at"] if cursor else 0
        data = (await api.get(path, {"startAt": start, "maxResults": 100})).data
        following = start + len(data[listed])
        return data[listed], {"at": following} if start < following < data.get("total", 0) else None

    try:
        return await all_rows(rows_at, api.longest_wait)
    except AccessDenied:
        return first  # the issue was deleted or moved away just now


def _gone(part: str = "") -> FindGone:
    """Asks for one after the other, and then whether anything of the project is shown: what was archived is found by no search. part: of
    an issue, as the search calls it."""

    async def gone(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
        base, missing = partition.facts["base"], []
        for record in records:
            row = record.payload
            path = f"issue/{row['issue']['id']}/{part}/{row['id']}" if part else f"issue/{row['id']}"
            try:
                await api.get(f"{base}/{path}", None if part else {"fields": "updated"})
            except NotFound:
                missing.append(record.external_id)
            except AccessDenied:
                continue  # it is there, and not for us
        if not missing:
            return []
        asked = {"jql": f"project = {partition.facts['project']}", "maxResults": 1, "fields": [part or "updated"]}
        return missing if (await _search(api, partition, None, asked))["issues"] else []

    return gone


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _person(user: JSON | None, context: Context, known: JSON | None = None) -> Entity | None:
    """Atlassian's account ids are good on every site; addresses are mostly hidden."""
    if not user or user.get("accountId") in (None, "", _UNKNOWN):
        return None
    name = user.get("displayName") or "Jira user"
    if user.get("accountType") == "app":
        return Entity("bot", context.key("user", user["accountId"]), name, known)
    return person(context.key("user", user["accountId"]), name, user.get("emailAddress"), known)


def _nodes(document: Any) -> Iterator[JSON]:
    """All nodes of a text in the Atlassian Document Format, in order."""
    stack = [document]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(reversed(node.get("content") or ()))


def _text(document: Any) -> str:
    if isinstance(document, str):
        return document
    parts = []
    for node in _nodes(document):
        attributes = node.get("attrs") or {}
        parts.append(node.get("text") or attributes.get("text") or attributes.get("url") or "")
        if node.get("type") in _LINES:
            parts.append("\n")
    return "".join(parts).strip()


def _mentions(context: Context, site: str, *documents: Any) -> Iterator[str]:
    """People, issues by their keys, e-mail addresses."""
    for document in documents:
        people = [(node.get("attrs") or {}).get("id") for node in _nodes(document) if node.get("type") == "mention"]
        yield from context.keys("user", *(one for one in people if one != _UNKNOWN))
        text = _text(document)
        issues = (key for key in _KEY.findall(text)[:MOST_MENTIONS] if not key.startswith(_NOT_KEYS))
        yield from (context.key("key", f"{site}:{key}") for key in issues)
        yield from mentioned_emails(text)


def _part(kind: str, what: str, row: JSON, site: str, context: Context) -> Entity:
    """A part of a project that issues name by its id."""
    return Entity(kind, context.key(what, f"{site}:{row['id']}"), row.get("name") or what.capitalize())


def _extract_issue(row: JSON, context: Context) -> Graph:
    site, fields, key = context.partition.facts["site"], row["fields"], row["key"]
    status, project, parent = (fields.get(name) or {} for name in ("status", "project", "parent"))
    known = {
        "key": key,
        "type": (fields.get("issuetype") or {}).get("name"),
        "status": status.get("name"),
        "done": (status.get("statusCategory") or {}).get("key") == "done",
        "priority": (fields.get("priority") or {}).get("name"),
        "due": fields.get("duedate"),
        "url": f"{context.partition.facts['url']}/browse/{key}",
    }
    # Keys change when an issue moves to another project, and are what people write.
    handles, own = (context.key("key", f"{site}:{key}"),), context.key("issue", f"{site}:{row['id']}")
    said = Graph(Entity("issue", own, fields.get("summary") or key, known, (), handles))
    if project:
        name = project.get("name") or project["key"]
        said.to("part_of", Entity("project", context.key("project", f"{site}:{project['id']}"), name))
    if parent:
        said.refer("part_of", [context.key("issue", f"{site}:{parent['id']}")])
    said.to("assigned_to", _person(fields.get("assignee"), context))
    said.to("raised_by", _person(fields.get("reporter"), context))
    said.by("authored", _person(fields.get("creator"), context))
    labels = fields.get("labels") or ()
    said.to("labelled", *(Entity("label", context.key("label", f"{site}:{label}"), label) for label in labels))
    for component in fields.get("components") or ():
        said.to("labelled", _part("label", "component", component, site, context))
    for version in fields.get("fixVersions") or ():
        said.to("in_milestone", _part("milestone", "version", version, site, context))
    for sprint in (one for name in context.partition.facts.get("sprints", ()) for one in fields.get(name) or ()):
        said.to("in_milestone", _part("milestone", "sprint", sprint, site, context))
    for link in fields.get("issuelinks") or ():
        kind = re.sub(r"[^a-z]+", "_", (link.get("type") or {}).get("outward", "").lower()).strip("_") or "relates_to"
        for side, tell in (("outwardIssue", said.refer), ("inwardIssue", said.referred)):
            tell(kind, [context.key("issue", f"{site}:{link[side]['id']}")] if link.get(side) else ())
    said.refer("mentions", _mentions(context, site, fields.get("summary"), fields.get("description")))
    return said


def _extract_comment(row: JSON, context: Context) -> Graph:
    name = headline(_text(row.get("body")), "(empty comment)")
    return _on_issue(row, context, "message", "comment", name, "comment_on")


def _extract_worklog(row: JSON, context: Context) -> Graph:
    name, known = f"{row.get('timeSpent') or 'Work'} on {row['issue']['key']}", facts(row, "started")
    return _on_issue(row, context, "event", "worklog", name, "about", seconds=row.get("timeSpentSeconds"), **known)


def _extract_change(row: JSON, context: Context) -> Graph:
    items = [
        f"{i.get('field')}: {i.get('fromString') or '–'} → {i.get('toString') or '–'}" for i in row.get("items") or ()
    ]
    said = _on_issue(row, context, "event", "change", ("; ".join(items) or "Change")[:200], "about", changes=items)
    if keys := [i["fromString"] for i in row.get("items") or () if i.get("field") == "Key" and i.get("fromString")]:
        # It moved to another project. Texts from before call it by the key that it had there, which nothing else tells.
        site, issue = context.partition.facts["site"], row["issue"]
        handles = tuple(context.key("key", f"{site}:{key}") for key in keys)
        said.entities.append(
            Entity("issue", context.key("issue", f"{site}:{issue['id']}"), issue["key"], None, (), handles)
        )
    return said


def _on_issue(row: JSON, context: Context, kind: str, what: str, name: str, link: str, **known: Any) -> Graph:
    site, issue = context.partition.facts["site"], row["issue"]
    known = facts(known, *known, url=f"{context.partition.facts['url']}/browse/{issue['key']}")
    said = Graph(Entity(kind, context.key(what, f"{site}:{row['id']}"), name, known))
    said.refer(link, [context.key("issue", f"{site}:{issue['id']}")])
    said.by("authored", _person(row.get("author"), context))
    own = context.key("key", f"{site}:{issue['key']}")
    found = _mentions(context, site, row.get("body"), row.get("comment"))
    said.refer("mentions", (key for key in found if key != own))
    return said


def _extract_project(row: JSON, context: Context) -> Graph:
    site, own = row["site"], row["key"]
    known = {"key": own, "type": row.get("projectTypeKey"), "archived": bool(row.get("archived"))}
    known["url"] = f"{site['url']}/browse/{own}"
    key, handle = context.key("project", f"{site['id']}:{row['id']}"), _address(urlsplit(site["url"]).netloc, own)
    said = Graph(Entity("project", key, row.get("name") or own, known, (), (handle,)))
    said.to("owned_by", _person(row.get("lead"), context))
    return said


def _extract_user(row: JSON, context: Context) -> Graph:
    own = _person(row, context, facts(row, "active", type=row.get("accountType")))
    if own is None:
        raise RecordRejected("it does not say whom it is about")
    return Graph(own)


# -- addresses ----------------------------------------------------------------------------------------------------------------

# Keys hold the site's id, which stays when the site is renamed; addresses hold its host. A project's own record says which address
# leads to it, and the issue's key in it leads to the issue.


def _address(host: str, key: str) -> str:
    """Of a project or an issue, whichever connection of the site brings it."""
    return f"jira:address:{host.lower()}/{key.upper()}"


def _located(address: str, container: str) -> str | None:
    ns, is_project, place = container.partition(":project:")
    return f"{ns}:key:{place.rpartition(':')[0]}:{address.rpartition('/')[2]}" if is_project else None


def _linked(match: re.Match[str]) -> str:
    return _address(urlsplit(match[0]).netloc, match[1])


def _project_of(match: re.Match[str]) -> str:
    return _linked(match).rpartition("-")[0]


_ISSUE = r"([A-Za-z][A-Za-z0-9_]{1,9}-[1-9]\d{0,6})\b"
_BOARD = r"jira/[\w/-]{1,200}\?(?:[\w=%.,-]{1,100}&){0,5}selectedIssue="
_LINKS = (
    Link("*.atlassian.net", rf"browse/{_ISSUE}", _linked, _project_of),
    Link("*.atlassian.net", _BOARD + _ISSUE, _linked, _project_of),
    Link("*.atlassian.net", r"browse/([A-Za-z][A-Za-z0-9_]{1,9})(?![\w-])", _linked),
)


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    """The person who granted access: one grant may reach several sites, and reaches more when it is granted again."""
    sites = await _sites(api)
    if not sites:
        raise AccessDenied("Jira: no site was granted. Connect again and choose one.")
    who = (await api.get(f"{REST}/myself" if _is_personal(api.token) else "/me")).data
    name = who.get("emailAddress") or who.get("email") or who.get("displayName") or who.get("name") or "Jira"
    account = str(who.get("accountId") or who["account_id"])
    return Account(account, f"{name} ({', '.join(site['name'] for site in sites)})")


_NEEDS = ("read:jira-work",)


def _listed(
    name: str,
    label: str,
    list_rows: Any,
    own_id: str,
    extract: Extract,
    needs: tuple[str, ...],
    size: int,
    *,
    names_partitions: bool = False,
) -> Stream:
    """What a site has a list of. The rows have no time."""
    read = reader(lambda row: f"{row['site']['id']}:{row[own_id]}")
    fetch = listing(partial(_by_site, list_rows), read)
    return Stream(
        name, label, WindowKind.SNAPSHOT, fetch, extract, needs=needs, page_size=size, names_partitions=names_partitions, record=read,
    )  # fmt: skip


def _parts(
    name: str,
    label: str,
    field: str,
    listed: str,
    time_of: str,
    extract: Extract,
    clock: Clock = Clock.UPDATED,
    gone: FindGone | None = None,
) -> Stream:
    fetch = partial(_fetch_parts, field, listed, time_of)
    return Stream(
        name, label, WindowKind.SCAN, fetch, extract, ascending=False, partitioned=True, needs=_NEEDS, page_size=50, clock=clock,
        gone=gone, shared=gone is not None,
    )  # fmt: skip


JIRA = Provider(
    slug="jira",
    links=_LINKS,
    located=_located,
    name="Jira",
    category="Engineering",
    summary="What is planned, done and discussed: projects, issues, comments, work logged and every change.",
    brings=("Projects", "Issues", "Comments", "Work logged", "Changes", "People"),
    api_url=API,
    auth_url="https://auth.atlassian.com",
    auth_header=_auth_header,
    headers={"Accept": "application/json"},
    identify=_identify,
    partitions=_partitions,
    partition_label="Projects",
    classify=_classify,
    # A missing scope is told with 401 too, and no new token brings it.
    expired=lambda reply: reply.status == 401 and not isinstance(_classify(reply), AccessDenied),
    rate_state=rate_headers(),
    # Jira counts points and bursts of its own and says so when they are used up; this keeps well below.
    budget=RateBudget(requests=600, seconds=60, concurrency=4),
    oauth=OAuth(
        "/authorize", "/oauth/token", ("read:jira-work", "read:jira-user", "read:me", "offline_access"),
        extra_authorize={"audience": "api.atlassian.com", "prompt": "consent"},
        token_json=True, client_errors=frozenset({"access_denied"}),
    ),
    token_help="Your e-mail address, a colon and an API token: you@example.com:ATATT3x...",
    self_hosted=True,
    token_site="https://your-site.atlassian.net",
    settle=timedelta(minutes=5),  # searches lag behind writes
    streams=(
        _listed("projects", "Projects", _list_projects, "id", _extract_project, _NEEDS, 50, names_partitions=True),
        _listed("users", "People", _list_users, "accountId", _extract_user, ("read:jira-user",), 1000),
        Stream(
            "issues", "Issues", WindowKind.EXACT, _fetch_issues, _extract_issue, _count_issues, partitioned=True,
            needs=_NEEDS, gone=_gone(), shared=True,
        ),
        _parts("comments", "Comments", "comment", "comments", "updated", _extract_comment, gone=_gone("comment")),
        _parts("worklogs", "Work logged", "worklog", "worklogs", "updated", _extract_worklog, gone=_gone("worklog")),
        _parts("changes", "Changes", "changelog", "values", "created", _extract_change, Clock.CREATED),
    ),
)  # fmt: skip
