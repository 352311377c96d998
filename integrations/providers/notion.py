"""Notion's API: people, data sources and their rows, pages and comments.

Times are kept to the minute. Rows of a data source can be asked for by time; pages and comments are found by walking the search,
newest edit first. One query lists at most 10,000 results and says so: rows go on by time of creation, the search from its other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    ProviderError,
    ReauthRequired,
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
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Record,
    Relationship,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import email_key, mentioned_emails

VERSION = "2025-09-03"
PAGE = 100
PAGES_A_FETCH = 10  # whose comments one fetch asks for, each with a request of its own
_MINUTE = timedelta(minutes=1)


class _NotShared(AccessDenied):
    """What the connection can't see, or what is gone for good: Notion does not say which."""


# -- wire format --------------------------------------------------------------------------------------------------------------


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status < 400:
        return None
    body = reply.data if isinstance(reply.data, dict) else {}
    code, message = str(body.get("code") or ""), str(body.get("message") or "")[:300]
    if reply.status == 429 or code == "rate_limited":
        why = (body.get("additional_data") or {}).get("rate_limit_reason") or ""
        who = "all integrations of the workspace" if "space" in why else "this connection"
        at = reply.retry_at() or datetime.now(UTC) + timedelta(seconds=5)
        return Throttled(f"Notion asks {who} to slow down.", at)
    if reply.status == 401:
        return ReauthRequired("Notion no longer accepts this connection's access.")
    if code == "restricted_resource" or reply.status == 403:
        return AccessDenied(f"Notion does not let this connection read it: {message or 'a capability is missing'}")
    if code == "object_not_found":
        return _NotShared(f"Notion has not shared it with this connection: {message}")
    if code == "conflict_error":
        return Unavailable("Notion was saving the same thing just now.", reply.retry_at())
    if code == "validation_error" and "start_cursor" in message:
        return CursorExpired("Notion no longer knows the page; going on by date.")
    return None


def _time(value: str) -> datetime:
    return datetime.fromisoformat(value)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:00.000Z")


def _records(rows: list[Any], time_key: str = "last_edited_time") -> tuple[list[Record], list[tuple[str, Any, str]]]:
    records, rejected = [], []
    for row in rows:
        try:
            records.append(Record(str(row["id"]), _time(row[time_key]), row))
        except (KeyError, TypeError, ValueError) as error:
            named = str(row.get("id", "")) if isinstance(row, dict) else ""
            rejected.append((named, row, f"no usable id or time: {type(error).__name__} {error}"))
    return records, rejected


def _is_cut(data: JSON) -> bool:
    """Whether the query's results end where Notion will list no more, instead of at their end."""
    return (data.get("request_status") or {}).get("type") == "incomplete"


# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _search(api: Api, kind: str, cursor: JSON | None) -> tuple[list[Any], JSON | None]:
    """A page of the search and where it goes on. Where it is cut, it goes on from the oldest edit up to what it has met."""
    cursor = cursor or {}
    if cursor.get("cut"):
        raise RequestRejected("Notion's search lists no more of this workspace; what lies between was not reached.")
    upwards = bool(cursor.get("upwards"))
    order = {"timestamp": "last_edited_time", "direction": "ascending" if upwards else "descending"}
    body: JSON = {"filter": {"property": "object", "value": kind}, "sort": order, "page_size": PAGE}
    if cursor.get("start"):
        body["start_cursor"] = cursor["start"]
    data = (await api.request("POST", "/v1/search", json=body)).data
    rows = data["results"]
    last = rows[-1].get("last_edited_time", "") if rows and isinstance(rows[-1], dict) else ""
    if upwards and last >= cursor["met"]:
        return rows, None
    if data["has_more"] and data["next_cursor"]:
        return rows, {**cursor, "start": data["next_cursor"]}
    if not _is_cut(data):
        return rows, None
    return rows, {"cut": True} if upwards else {"upwards": True, "met": last}


async def _fetch_users(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    params = {"page_size": PAGE, **({"start_cursor": cursor["start"]} if cursor else {})}
    data = (await api.get("/v1/users", params)).data
    # People have no time of their own.
    records, rejected = _records([{**row, "at": window.until.isoformat()} for row in data["results"]], "at")
    records = [r._replace(payload={k: v for k, v in r.payload.items() if k != "at"}) for r in records]
    return Page(records, {"start": data["next_cursor"]} if data["has_more"] else None, None, rejected)


async def _fetch_data_sources(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    rows, following = await _search(api, "data_source", cursor)
    records, rejected = _records(rows)
    return Page(records, following, None, rejected)


async def _fetch_pages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Pages that are no rows of a data source, down to the window's beginning; rows have a stream of their own."""
    rows, following = await _search(api, "page", cursor)
    records, rejected = _records(rows)
    if records and records[-1].occurred_at < window.since and not (cursor or {}).get("upwards"):
        following = None
    own = [record for record in records if (record.payload.get("parent") or {}).get("type") not in _ROW_PARENTS]
    return Page(own, following, None, rejected)


_ROW_PARENTS = ("data_source_id", "database_id")


async def _fetch_rows(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Oldest row first, so that edits meanwhile don't move what is still to come; then what lies in the trash."""
    cursor = cursor or {}
    within: list[JSON] = [
        {"timestamp": "last_edited_time", "last_edited_time": {"on_or_after": _stamp(window.since)}},
        {"timestamp": "last_edited_time", "last_edited_time": {"before": _stamp(window.until + _MINUTE)}},
    ]
    if created := cursor.get("created"):
        within.append({"timestamp": "created_time", "created_time": {"on_or_after": created}})
    order = [{"timestamp": "created_time", "direction": "ascending"}]
    body: JSON = {"filter": {"and": within}, "sorts": order, "page_size": PAGE}
    if trash := bool(cursor.get("trash")):
        body["in_trash"] = True
    if cursor.get("start"):
        body["start_cursor"] = cursor["start"]
    data = (await api.request("POST", f"/v1/data_sources/{partition.key}/query", json=body)).data
    rows = data["results"]
    records, rejected = _records(rows)
    following: JSON | None = None if trash else {"trash": True}
    if data["has_more"] and data["next_cursor"]:
        following = {**cursor, "start": data["next_cursor"]}
    elif _is_cut(data):
        last = rows[-1]["created_time"]
        if last == created:
            raise WindowTooLarge("Notion lists no more rows of this span of time.")
        following = {"created": last, **({"trash": True} if trash else {})}
    return Page(records, following, None, rejected)


async def _fetch_comments(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Every page is asked for its comments: a comment does not touch its page's time of editing."""
    cursor = cursor or {"search": {}, "pages": []}
    search, pages, start = cursor["search"], list(cursor["pages"]), cursor.get("start")
    if not pages:
        found, search = await _search(api, "page", search or None)
        pages = [row["id"] for row in found if isinstance(row, dict) and row.get("id")]
    records: list[Record] = []
    rejected: list[tuple[str, Any, str]] = []
    for _ in range(PAGES_A_FETCH):
        if not pages:
            break
        params = {"block_id": pages[0], "page_size": PAGE, **({"start_cursor": start} if start else {})}
        try:
            data = (await api.get("/v1/comments", params)).data
        except _NotShared:  # or deleted since the search
            data = {"results": [], "has_more": False}
        more, wrong = _records(data["results"])
        records, rejected = records + more, rejected + wrong
        start = data["next_cursor"] if data["has_more"] else None
        if start is None:
            pages.pop(0)
        if len(records) >= PAGE:
            break
    if not pages and search is None:
        return Page(records, None, None, rejected)
    return Page(records, {"search": search, "pages": pages, "start": start}, None, rejected)


async def _partitions(api: Api) -> list[Partition]:
    found: dict[str, Partition] = {}
    cursor: JSON | None = None
    while True:
        rows, cursor = await _search(api, "data_source", cursor)
        for row in rows:
            found[row["id"]] = Partition(row["id"], _plain(row.get("title")) or "Untitled")
        if cursor is None:
            return list(found.values())


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _plain(rich: Any) -> str:
    return "".join(part.get("plain_text") or "" for part in rich or () if isinstance(part, dict)).strip()


def _person(row: JSON, ns: str, properties: JSON | None = None) -> Entity:
    own, address = f"{ns}:user:{row['id']}", email_key((row.get("person") or {}).get("email"))
    name = row.get("name") or "Notion user"
    return Entity("person", address or own, name, properties, (own,) if address else ())


class _Saying:
    """One record's graph as it grows."""

    def __init__(self, own: Entity, ns: str) -> None:
        self.graph, self.key, self.ns = Graph([own], []), own.key, ns

    def link(self, kind: str, other: Entity, *, back: bool = False) -> None:
        relationship = Relationship(kind, *((other.key, self.key) if back else (self.key, other.key)))
        if other.key != self.key and relationship not in self.graph.relationships:
            self.graph.entities.append(other)
            self.graph.relationships.append(relationship)

    def author(self, row: JSON) -> None:
        if (row.get("created_by") or {}).get("id"):
            self.link("authored", _person(row["created_by"], self.ns), back=True)

    def parent(self, parent: JSON | None, kind: str = "part_of") -> None:
        parent = parent or {}
        for name, entity, label in (
            ("page_id", "page", "Page"),
            ("data_source_id", "data_source", "Data source"),
            ("database_id", "database", "Database"),
        ):
            # A row's parent names its database besides the data source that it is in.
            if parent.get("type") == name and parent.get(name):
                other = "document" if entity == "page" else "collection"
                self.link(kind, Entity(other, f"{self.ns}:{entity}:{parent[name]}", label))

    def text(self, rich: Any) -> None:
        """What rich text mentions: people and pages by id, addresses as they are written."""
        for part in rich or ():
            mention = part.get("mention") or {}
            if (mention.get("user") or {}).get("id"):
                self.link("mentions", _person(mention["user"], self.ns))
            if (mention.get("page") or {}).get("id"):
                name = part.get("plain_text") or "Page"
                self.link("mentions", Entity("document", f"{self.ns}:page:{mention['page']['id']}", name))
        for key in mentioned_emails(_plain(rich)):
            self.link("mentions", Entity("person", key, key.rpartition(":")[2]))


def _facts(row: JSON, **more: Any) -> JSON:
    facts = {"url": row.get("url"), **more}
    if row.get("in_trash"):
        facts["deleted"] = True
    return {name: value for name, value in facts.items() if value is not None}


def _extract_user(row: JSON, context: Context) -> Graph:
    return Graph(
        [_person(row, context.namespace, {"type": row.get("type"), "email": (row.get("person") or {}).get("email")})],
        [],
    )


def _extract_data_source(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    name = _plain(row.get("title")) or "Untitled"
    said = _Saying(Entity("collection", f"{ns}:data_source:{row['id']}", name, _facts(row)), ns)
    said.parent(row.get("parent"))
    said.author(row)
    said.text(row.get("description"))
    return said.graph


def _extract_page(row: JSON, context: Context) -> Graph:
    ns, values = context.namespace, list((row.get("properties") or {}).items())
    title = next((_plain(value.get("title")) for _, value in values if value.get("type") == "title"), "")
    shown = {}
    for name, value in values:
        held = value.get(value.get("type") or "")
        if value.get("type") in ("status", "select"):
            shown[name] = (held or {}).get("name")
        elif value.get("type") in ("number", "checkbox", "url", "email", "phone_number"):
            shown[name] = held
        elif value.get("type") == "date":
            shown[name] = (held or {}).get("start")
    shown = {name: value for name, value in shown.items() if value is not None}
    said = _Saying(
        Entity("document", f"{ns}:page:{row['id']}", title or "Untitled", _facts(row, properties=shown or None)), ns
    )
    said.parent(row.get("parent"))
    said.author(row)
    for name, value in values:
        kind = value.get("type")
        if kind in ("title", "rich_text"):
            said.text(value.get(kind))
        elif kind == "people":
            for person in value.get("people") or ():
                said.link("with", _person(person, ns))
        elif kind == "email" and (address := email_key(value.get("email"))):
            said.link("with", Entity("person", address, address.rpartition(":")[2]))
        elif kind == "relation":
            for other in value.get("relation") or ():
                said.link("about", Entity("document", f"{ns}:page:{other['id']}", name or "Page"))
    return said.graph


def _extract_comment(row: JSON, context: Context) -> Graph:
    ns, text = context.namespace, _plain(row.get("rich_text"))
    name = text.partition("\n")[0][:120].strip() or "(empty comment)"
    said = _Saying(
        Entity("message", f"{ns}:comment:{row['id']}", name, _facts(row, discussion=row.get("discussion_id"))), ns
    )
    said.parent(row.get("parent"), "comment_on")
    said.author(row)
    said.text(row.get("rich_text"))
    return said.graph


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    me = (await api.get("/v1/users/me")).data
    bot = me.get("bot") or {}
    workspace = bot.get("workspace_id") or api.facts.get("workspace_id") or me["id"]
    return Account(
        str(workspace), str(bot.get("workspace_name") or me.get("name") or workspace), None, {"bot_id": me["id"]}
    )


async def _revoke(grant: Revocation) -> None:
    who = (grant.client_id, grant.client_secret)
    await grant.api.request("POST", "/v1/oauth/revoke", json={"token": grant.access_token}, auth=who)


def _token_facts(token: Mapping[str, Any]) -> JSON:
    return {name: token[name] for name in ("workspace_id", "bot_id") if token.get(name)}


NOTION = Provider(
    links=(
        Link(
            "www.notion.so",
            r"(?:[\w-]{1,80}/)?(?:[\w%-]{1,200}-)?([0-9a-f]{32})\b",
            lambda match: f"notion:page:{UUID(match[1])}",
        ),
    ),
    slug="notion",
    name="Notion",
    category="Knowledge",
    summary="What the company has written down: pages, data sources and their rows, and the comments on them.",
    brings=("Pages", "Data sources", "Rows", "Comments", "People"),
    api_url="https://api.notion.com",
    auth_url="https://api.notion.com",
    headers={"Notion-Version": VERSION},
    identify=_identify,
    classify=_classify,
    partitions=_partitions,
    partition_label="Data sources",
    budget=RateBudget(requests=3, seconds=1, concurrency=3),
    # What may be read is set on the integration, and the person picks the pages.
    oauth=OAuth(
        "/v1/oauth/authorize", "/v1/oauth/token", (), extra_authorize={"owner": "user"}, token_json=True, client_basic=True,
        pkce=False, revoke=_revoke, token_facts=_token_facts,
    ),
    token_help="The secret of an internal integration (ntn_...) with the capabilities to read content, comments and user "
    "information with e-mail addresses. Pages must be shared with it in Notion.",
    # An edit of the same minute does not change a time, so the minute must be over before it is read.
    settle=timedelta(minutes=2),
    streams=(
        Stream("users", "People", WindowKind.SNAPSHOT, _fetch_users, _extract_user),
        Stream("data_sources", "Data sources", WindowKind.SNAPSHOT, _fetch_data_sources, _extract_data_source),
        Stream("rows", "Rows", WindowKind.EXACT, _fetch_rows, _extract_page, partitioned=True),
        Stream("pages", "Pages", WindowKind.SCAN, _fetch_pages, _extract_page, ascending=False),
        Stream("comments", "Comments", WindowKind.SCAN, _fetch_comments, _extract_comment, ascending=False),
    ),
)  # fmt: skip
