"""Jira Cloud's REST API, version 3: projects, people, issues, comments, work logged and changes, of every site that was granted."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from integrations.errors import AccessDenied, CursorExpired, Misconfigured, ProviderError, RequestRejected, Throttled
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Clock,
    Context,
    Entity,
    Estimate,
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    RateState,
    Record,
    Relationship,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import MOST_MENTIONS, email_key, mentioned_emails

REST = "/rest/api/3"
API = "https://api.atlassian.com"
_EPOCH, _MS, _MINUTE = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1), timedelta(minutes=1)
_FIELDS = (
    "summary,description,status,issuetype,priority,project,assignee,reporter,creator,created,updated,resolutiondate,duedate,"
    "labels,parent,issuelinks"
)
_KEY = re.compile(r"(?<![\w-])([A-Z][A-Z0-9_]{1,9}-[1-9]\d{0,6})(?![\w-])")
# What looks like an issue's key and is none.
_NOT_KEYS = ("UTF-", "SHA-", "ISO-", "RFC-", "CVE-", "TLS-", "HTTP-", "COVID-", "AES-", "MD-", "UTC-", "GMT-")


# -- wire format --------------------------------------------------------------------------------------------------------------


def _time(value: str) -> datetime:
    """2025-01-02T09:10:11.000+0100, in the connecting user's time zone."""
    return datetime.fromisoformat(value).astimezone(UTC)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MS


def _reset(reply: Reply) -> datetime | None:
    try:
        moment = datetime.fromisoformat(reply.headers["x-ratelimit-reset"])
    except (KeyError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _classify(reply: Reply) -> ProviderError | None:
    body = reply.data if isinstance(reply.data, dict) else {}
    if reply.status == 401 and "scope" in str(body.get("message", "")):
        return AccessDenied("Jira does not let this connection read it: a scope is missing. Reconnect to grant it.")
    if reply.status == 429:
        reason = reply.headers.get("ratelimit-reason", "")
        at = reply.retry_at() or _reset(reply) or datetime.now(UTC) + timedelta(seconds=10)
        if reason.startswith("jira-quota"):
            whose = "this app" if "global" in reason else "this site"
            return Throttled(f"Jira's hourly quota for {whose} is used up.", at)
        return Throttled("Jira asks to slow down.", at)
    if reply.status == 400:
        words = " ".join(map(str, body.get("errorMessages") or ())) or reply.text[:200]
        if "does not exist for the field 'project'" in words:
            return AccessDenied("Jira no longer shows this project.")
        return RequestRejected(f"Jira refused the request: {words[:300]}")
    return None


def _rate_state(reply: Reply) -> RateState | None:
    try:
        left, limit = int(reply.headers["x-ratelimit-remaining"]), int(reply.headers["x-ratelimit-limit"])
    except (KeyError, ValueError):
        return None
    return RateState(left, limit, _reset(reply))


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


async def _project_rows(api: Api, site: JSON, start: int, *states: str) -> tuple[list[JSON], int | None]:
    """(projects, where the next page starts or None)."""
    data = (
        await api.get(f"{site['base']}/project/search", {"startAt": start, "maxResults": 50, "status": states})
    ).data
    rows = data["values"]
    return rows, None if data.get("isLast", True) or not rows else start + len(rows)


async def _partitions(api: Api) -> list[Partition]:
    """The projects of all sites. What is archived can't be searched."""
    found = []
    for site in await _sites(api):
        start: int | None = 0
        while start is not None:
            rows, start = await _project_rows(api, site, start, "live")
            for row in rows:
                facts = {"site": site["id"], "url": site["url"], "base": site["base"], "project": str(row["id"])}
                found.append(Partition(f"{site['id']}:{row['id']}", f"{row['name']} ({row['key']})", facts))
    return found


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _records(
    rows: list[JSON], prefix: str, time_of: Callable[[JSON], datetime], id_key: str = "id", **more: Any
) -> tuple[list[Record], list[tuple[str, Any, str]]]:
    records, rejected = [], []
    for row in rows:
        try:
            records.append(Record(f"{prefix}:{row[id_key]}", time_of(row), {**row, **more}))
        except (KeyError, TypeError, ValueError) as error:
            rejected.append((str(row.get(id_key, "")), row, f"no usable id or time: {type(error).__name__} {error}"))
    return records, rejected


def _by_site(list_rows: Callable[..., Any], id_key: str) -> Callable[..., Any]:
    """Lists that a site has one of, site after site. The rows have no time."""

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        sites, start = (cursor["sites"], cursor["start"]) if cursor else (await _sites(api), 0)
        if not sites:
            return Page([], None)
        rows, following = await list_rows(api, sites[0], start)
        records, rejected = _records(rows, sites[0]["id"], lambda row: _EPOCH, id_key, site=sites[0])
        if following is not None:
            return Page(records, {"sites": sites, "start": following}, None, rejected)
        return Page(records, {"sites": sites[1:], "start": 0} if sites[1:] else None, None, rejected)

    return fetch


async def _list_projects(api: Api, site: JSON, start: int) -> tuple[list[JSON], int | None]:
    return await _project_rows(api, site, start, "live", "archived")


async def _list_users(api: Api, site: JSON, start: int) -> tuple[list[JSON], int | None]:
    rows = (await api.get(f"{site['base']}/users/search", {"startAt": start, "maxResults": 1000})).data
    return rows, start + len(rows) if rows else None


async def _search(api: Api, partition: Partition, cursor: JSON | None, body: JSON) -> JSON:
    if cursor:
        body["nextPageToken"] = cursor["token"]
    try:
        return (await api.request("POST", f"{partition.facts['base']}/search/jql", json=body)).data
    except RequestRejected:
        if cursor:  # page tokens live for seven days
            raise CursorExpired("Jira no longer knows the page; going on by date.") from None
        raise


def _condition(partition: Partition, window: Window, *, bounded: bool = True) -> str:
    """JQL for the window. Times are absolute as milliseconds (in words they would be read in the user's time zone), but may be
    taken by the minute: so a minute more on either side."""
    jql = f"project = {partition.facts['project']} AND updated >= {_ms(window.since - _MINUTE)}"
    return f"{jql} AND updated < {_ms(window.until + _MINUTE)}" if bounded else jql


def _cursor(data: JSON) -> JSON | None:
    token = data.get("nextPageToken")
    return {"token": token} if token and not data.get("isLast") else None


async def _fetch_issues(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    jql = f"{_condition(partition, window)} ORDER BY updated ASC, key ASC"
    data = await _search(api, partition, cursor, {"jql": jql, "maxResults": 100, "fields": _FIELDS.split(",")})
    records, rejected = _records(data["issues"], partition.facts["site"], lambda row: _time(row["fields"]["updated"]))
    return Page(records, _cursor(data), records[-1].occurred_at if records else None, rejected)


async def _count_issues(api: Api, partition: Partition, window: Window) -> Estimate | None:
    jql = _condition(partition, window)
    reply = await api.request("POST", f"{partition.facts['base']}/search/approximate-count", json={"jql": jql})
    return Estimate(int(reply.data["count"]), exact=False)


def _part(name: str, listed: str, time_key: str) -> Callable[..., Any]:
    """What hangs on issues: comments, worklogs, changes. Each is as old as its issue's last update or older, so all issues that
    were updated since the window's beginning are read, to this day; by their age, which no update moves while we read."""

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        jql = f"{_condition(partition, window, bounded=False)} ORDER BY created ASC, key ASC"
        body: JSON = {"jql": jql, "maxResults": 50, "fields": ["updated" if name == "changelog" else name]}
        if name == "changelog":
            body["expand"] = name
        data = await _search(api, partition, cursor, body)
        records, rejected = [], []
        for issue in data["issues"]:
            part = issue.get(name) or issue["fields"].get(name) or {}
            rows = part.get("histories" if name == "changelog" else listed) or []
            if len(rows) < part.get("total", 0):  # only the first ones come with the issue
                rows = await _all(api, f"{partition.facts['base']}/issue/{issue['id']}/{name}", listed, rows)
            about = {"id": issue["id"], "key": issue["key"]}
            good, bad = _records(rows, partition.facts["site"], lambda row: _time(row[time_key]), issue=about)
            records += [record for record in good if record.occurred_at in window]
            rejected += bad
        return Page(records, _cursor(data), None, rejected)

    return fetch


async def _all(api: Api, path: str, listed: str, first: list[JSON]) -> list[JSON]:
    rows: list[JSON] = []
    while True:
        try:
            data = (await api.get(path, {"startAt": len(rows), "maxResults": 100})).data
        except AccessDenied:
            return first  # the issue was deleted or moved away just now
        rows += data[listed]
        if not data[listed] or len(rows) >= data.get("total", 0):
            return rows


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _person(user: JSON, ns: str, own: JSON | None = None) -> Entity:
    """Atlassian's account ids are good on every site; addresses are mostly hidden."""
    key, shared = f"{ns}:user:{user['accountId']}", email_key(user.get("emailAddress"))
    return Entity("person", shared or key, user.get("displayName") or "Jira user", own, (key,) if shared else ())


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
        if node.get("type") in ("paragraph", "heading", "hardBreak", "listItem", "codeBlock"):
            parts.append("\n")
    return "".join(parts).strip()


class _Said:
    """A graph in the making: the record's own entity and what it says."""

    def __init__(self, own: Entity, ns: str, site: str) -> None:
        self.entities: list[Entity] = [own]
        self.relationships: list[Relationship] = []
        self.key, self.ns, self.site = own.key, ns, site

    def person(self, kind: str, user: JSON | None, *, source: bool = False) -> None:
        if user and user.get("accountId"):
            person = _person(user, self.ns)
            self.entities.append(person)
            self.link(kind, person.key, source=source)

    def link(self, kind: str, other: str, *, source: bool = False) -> None:
        if other != self.key:
            self.relationships.append(Relationship(kind, *((other, self.key) if source else (self.key, other))))

    def mentions(self, own_key: str, *documents: Any) -> None:
        found: dict[str, None] = {}
        for document in documents:
            for node in _nodes(document):
                if node.get("type") == "mention" and (account := (node.get("attrs") or {}).get("id")):
                    found[f"{self.ns}:user:{account}"] = None
            text = _text(document)
            for key in _KEY.findall(text)[:MOST_MENTIONS]:
                if key != own_key and not key.startswith(_NOT_KEYS):
                    found[f"{self.ns}:key:{self.site}:{key}"] = None
            found.update(dict.fromkeys(mentioned_emails(text)))
        for target in found:
            self.link("mentions", target)

    @property
    def graph(self) -> Graph:
        return Graph(self.entities, self.relationships)


def _extract_issue(row: JSON, context: Context) -> Graph:
    ns, site, fields, key = context.namespace, context.partition.facts["site"], row["fields"], row["key"]
    status = fields.get("status") or {}
    facts = {
        "key": key,
        "type": (fields.get("issuetype") or {}).get("name"),
        "status": status.get("name"),
        "done": (status.get("statusCategory") or {}).get("key") == "done",
        "priority": (fields.get("priority") or {}).get("name"),
        "due": fields.get("duedate"),
        "url": f"{context.partition.facts['url']}/browse/{key}",
    }
    # Keys change when an issue moves to another project, and are what people write.
    own = Entity(
        "issue", f"{ns}:issue:{site}:{row['id']}", fields.get("summary") or key, facts, (), (f"{ns}:key:{site}:{key}",)
    )
    said = _Said(own, ns, site)
    if project := fields.get("project"):
        said.entities.append(
            Entity("project", f"{ns}:project:{site}:{project['id']}", project.get("name") or project["key"])
        )
        said.link("part_of", said.entities[-1].key)
    if parent := fields.get("parent"):
        said.link("part_of", f"{ns}:issue:{site}:{parent['id']}")
    said.person("assigned_to", fields.get("assignee"))
    said.person("raised_by", fields.get("reporter"))
    said.person("authored", fields.get("creator"), source=True)
    for label in fields.get("labels") or ():
        said.entities.append(Entity("label", f"{ns}:label:{site}:{label}", label))
        said.link("labelled", said.entities[-1].key)
    for link in fields.get("issuelinks") or ():
        kind = re.sub(r"[^a-z]+", "_", (link.get("type") or {}).get("outward", "").lower()).strip("_") or "relates_to"
        for side in ("outwardIssue", "inwardIssue"):
            if link.get(side):
                said.link(kind, f"{ns}:issue:{site}:{link[side]['id']}", source=side == "inwardIssue")
    said.mentions(key, fields.get("summary"), fields.get("description"))
    return said.graph


def _extract_comment(row: JSON, context: Context) -> Graph:
    text = _text(row.get("body"))
    return _on_issue(
        row, context, "message", "comment", text.partition("\n")[0][:120] or "(empty comment)", "comment_on"
    )


def _extract_worklog(row: JSON, context: Context) -> Graph:
    name = f"{row.get('timeSpent') or 'Work'} on {row['issue']['key']}"
    return _on_issue(
        row, context, "event", "worklog", name, "about", seconds=row.get("timeSpentSeconds"), started=row.get("started")
    )


def _extract_change(row: JSON, context: Context) -> Graph:
    items = [
        f"{i.get('field')}: {i.get('fromString') or '–'} → {i.get('toString') or '–'}" for i in row.get("items") or ()
    ]
    return _on_issue(row, context, "event", "change", ("; ".join(items) or "Change")[:200], "about", changes=items)


def _on_issue(row: JSON, context: Context, kind: str, what: str, name: str, link: str, **facts: Any) -> Graph:
    ns, site, issue = context.namespace, context.partition.facts["site"], row["issue"]
    facts = {name: value for name, value in facts.items() if value is not None}
    facts["url"] = f"{context.partition.facts['url']}/browse/{issue['key']}"
    said = _Said(Entity(kind, f"{ns}:{what}:{site}:{row['id']}", name, facts), ns, site)
    said.link(link, f"{ns}:issue:{site}:{issue['id']}")
    said.person("authored", row.get("author"), source=True)
    said.mentions(issue["key"], row.get("body"), row.get("comment"))
    return said.graph


def _extract_project(row: JSON, context: Context) -> Graph:
    ns, site = context.namespace, row["site"]
    facts = {"key": row["key"], "type": row.get("projectTypeKey"), "archived": bool(row.get("archived"))}
    facts["url"] = f"{site['url']}/browse/{row['key']}"
    key, handle = f"{ns}:project:{site['id']}:{row['id']}", _address(urlsplit(site["url"]).netloc, row["key"])
    said = _Said(Entity("project", key, row.get("name") or row["key"], facts, (), (handle,)), ns, site["id"])
    said.person("owned_by", row.get("lead"))
    return said.graph


def _extract_user(row: JSON, context: Context) -> Graph:
    facts = {"type": row.get("accountType"), "active": row.get("active")}
    return Graph([_person(row, context.namespace, {n: v for n, v in facts.items() if v is not None})], [])


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
    rate_state=_rate_state,
    # Jira counts points and bursts of its own and says so when they are used up; this keeps well below.
    budget=RateBudget(requests=600, seconds=60, concurrency=4),
    oauth=OAuth(
        "/authorize", "/oauth/token", ("read:jira-work", "read:jira-user", "read:me", "offline_access"),
        extra_authorize={"audience": "api.atlassian.com", "prompt": "consent"},
        token_json=True, client_errors=frozenset({"access_denied"}),
    ),
    token_help="Your e-mail address, a colon and an API token (you@example.com:ATATT3x...), with your site's address, "
    "https://your-site.atlassian.net.",
    self_hosted=True,
    settle=timedelta(minutes=5),  # searches lag behind writes
    streams=(
        Stream("projects", "Projects", WindowKind.SNAPSHOT, _by_site(_list_projects, "id"), _extract_project, needs=_NEEDS, page_size=50),
        Stream("users", "People", WindowKind.SNAPSHOT, _by_site(_list_users, "accountId"), _extract_user, needs=("read:jira-user",), page_size=1000),
        Stream("issues", "Issues", WindowKind.EXACT, _fetch_issues, _extract_issue, _count_issues, partitioned=True, needs=_NEEDS),
        Stream("comments", "Comments", WindowKind.SCAN, _part("comment", "comments", "updated"), _extract_comment,
            ascending=False, partitioned=True, needs=_NEEDS, page_size=50),
        Stream("worklogs", "Work logged", WindowKind.SCAN, _part("worklog", "worklogs", "updated"), _extract_worklog,
            ascending=False, partitioned=True, needs=_NEEDS, page_size=50),
        Stream("changes", "Changes", WindowKind.SCAN, _part("changelog", "values", "created"), _extract_change,
            ascending=False, partitioned=True, needs=_NEEDS, page_size=50, clock=Clock.CREATED),
    ),
)  # fmt: skip
