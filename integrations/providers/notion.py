"""Notion's API: people, data sources and their rows, pages, what is written on them, and comments.

Times are kept to the minute. Rows of a data source can be asked for by time; pages and comments are found by walking the
search, newest edit first; what is written comes by a request for each page, and more where it is long or nested. One query
lists at most 10,000 results and says so: rows go on by time of creation, the search from its other end.

Not imported are comments that are resolved, which Notion lists to nobody, and those on a block within a page, which it lists by the
block only: that would be a request for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Gone,
    ProviderError,
    ReauthRequired,
    RecordRejected,
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
    Fetch,
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import besides, facts, headline, person
from integrations.providers.replies import ErrorTable, Means, body, error_in, inner
from integrations.providers.text import email_key, mentioned_emails
from integrations.providers.wire import Rows, all_rows, listing, page, pages, reader, utc

VERSION = "2025-09-03"
PAGE = 100
PAGES_A_FETCH = 10  # whose comments one fetch asks for, each with a request of its own
LISTS_A_FETCH = 10  # of blocks that one fetch asks for
PROPERTIES_A_FETCH = 10  # that one fetch lists by themselves
LISTS_A_PROPERTY = 25  # of 100 references each
REFERENCES = 25  # of a property that a page tells by itself
DEEPEST = 30  # levels of blocks within blocks
# Blocks that stand for what has content of its own, and those of types that Notion does not show.
_NOT_LOOKED_INTO = ("child_page", "child_database", "unsupported")
# What lies within a page: its block has the id of the thing itself.
_LIES_WITHIN = {"child_page": "page", "child_database": "database"}
_MINUTE = timedelta(minutes=1)

# -- wire format --------------------------------------------------------------------------------------------------------------

_DENIED = Means(AccessDenied, "Notion does not let this connection read it: {said}")
_ERRORS: ErrorTable = {
    401: Means(ReauthRequired, "Notion no longer accepts this connection's access."),
    403: _DENIED,
    "restricted_resource": _DENIED,
    # What the connection can't see, or what is gone for good: Notion does not say which.
    "object_not_found": Means(Gone, "Notion has not shared it with this connection: {said}"),
    # AI blocks, meeting notes, linked objects of other tools: for their sake a whole page may be refused.
    "not shown": Means(Gone, "Notion does not show this block: {said}"),
    "conflict_error": Means(Unavailable, "Notion was saving the same thing just now."),
    "rate_limited": Means(Throttled, "Notion asks {said} to slow down.", wait=5),
    "dead cursor": Means(CursorExpired, "Notion no longer knows the page; going on by date."),
}


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status < 400:
        return None
    code, message = str(body(reply).get("code") or ""), str(body(reply).get("message") or "")
    if reply.status == 429 or code == "rate_limited":
        why = inner(body(reply), "additional_data").get("rate_limit_reason") or ""
        whom = "all integrations of the workspace" if "space" in why else "this connection"
        return error_in(_ERRORS, reply, "rate_limited", whom)
    if code == "validation_error" and "start_cursor" in message:
        code = "dead cursor"
    elif code == "validation_error" and message.startswith("Block type") and "not supported via the API" in message:
        code = "not shown"
    return error_in(_ERRORS, reply, code, message)


_EDITED = reader("id", "last_edited_time")


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:00.000Z")


def _is_cut(data: JSON) -> bool:
    """Whether the query's results end where Notion will list no more, instead of at their end."""
    return (data.get("request_status") or {}).get("type") == "incomplete"


# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _search(api: Api, cursor: JSON | None, kind: str) -> Rows:
    """A page of the search and where it goes on. Where it is cut, it goes on from the oldest edit up to what it has met.

    cursor: with "trash" the search is of what lies there, and of nothing else.
    """
    cursor = cursor or {}
    trash: JSON = {"trash": True} if cursor.get("trash") else {}
    if cursor.get("cut"):
        raise RequestRejected("Notion's search lists no more of this workspace; what lies between was not reached.")
    upwards = bool(cursor.get("upwards"))
    order = {"timestamp": "last_edited_time", "direction": "ascending" if upwards else "descending"}
    wanted = {"property": "object", "value": kind, **({"in_trash": True} if trash else {})}
    asked: JSON = {"filter": wanted, "sort": order, "page_size": PAGE}
    if cursor.get("start"):
        asked["start_cursor"] = cursor["start"]
    data = (await api.request("POST", "/v1/search", json=asked)).data
    rows = data["results"]
    last = rows[-1].get("last_edited_time", "") if rows and isinstance(rows[-1], dict) else ""
    if upwards and last >= cursor["met"]:
        return rows, None
    if data["has_more"] and data["next_cursor"]:
        return rows, {**cursor, "start": data["next_cursor"]}
    if not _is_cut(data):
        return rows, None
    return rows, {"cut": True, **trash} if upwards else {"upwards": True, "met": last, **trash}


def _and_trash(cursor: JSON | None, following: JSON | None) -> JSON | None:
    """Where it goes on once nothing is following: into the trash, after that nowhere."""
    return following if following or (cursor or {}).get("trash") else {"trash": True}


async def _data_sources(api: Api, cursor: JSON | None) -> Rows:
    rows, following = await _search(api, cursor, "data_source")
    return rows, _and_trash(cursor, following)


async def _fetch_users(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """People have no time of their own."""
    asked = {"page_size": PAGE, **({"start_cursor": cursor["start"]} if cursor else {})}
    data = (await api.get("/v1/users", asked)).data
    following = {"start": data["next_cursor"]} if data["has_more"] else None
    return page(data["results"], reader("id", lambda row: window.until), following)


async def _partitions(api: Api) -> list[Partition]:
    rows = {row["id"]: row for row in await all_rows(partial(_search, api, kind="data_source"), api.longest_wait)}
    return [Partition(row["id"], _plain(row.get("title")) or "Untitled") for row in rows.values()]


async def _fetch_pages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Pages down to the window's beginning, and those in the trash. Rows have a stream of their own, by the data sources that the search
    lists; those whose data source it does not list, as they were shared without it, are pages like others.

    That a page went into the trash counts as an edit (which Notion does not say, but its rows are found by the same).

    cursor: with "listed" it knows the data sources, by what `_tail` leaves of them.
    """
    rows, following = await _search(api, cursor, "page")
    found = page(rows, _EDITED, following)
    listed = (cursor or {}).get("listed")
    if listed is None and any(_source(one.payload) for one in found.records):
        listed = [_tail(row["id"]) for row in await all_rows(partial(_data_sources, api), api.longest_wait)]
    own = [one for one in found.records if _tail(_source(one.payload)) not in (listed or ())]
    reached = bool(found.records) and found.records[-1].occurred_at < window.since
    over = reached and not (cursor or {}).get("upwards")
    following = _and_trash(cursor, None if over else following)
    if following and listed is not None:
        following = {**following, "listed": listed}
    return found._replace(records=own, next_cursor=following)


def _source(row: JSON) -> str:
    """Id of the data source that a page is a row of; "" where it is none."""
    return (row.get("parent") or {}).get("data_source_id") or ""


def _tail(own_id: str) -> str:
    """What tells one data source of a workspace from another: whole ids of thousands would make a large cursor."""
    return own_id[-8:]


async def _rows(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    """Oldest row first, so that edits meanwhile don't move what is still to come; then what lies in the trash.

    Only pages are rows: a wiki has data sources among them, unless one says so.
    """
    cursor = cursor or {}
    within: list[JSON] = [
        {"timestamp": "last_edited_time", "last_edited_time": {"on_or_after": _stamp(window.since)}},
        {"timestamp": "last_edited_time", "last_edited_time": {"before": _stamp(window.until + _MINUTE)}},
    ]
    if created := cursor.get("created"):
        within.append({"timestamp": "created_time", "created_time": {"on_or_after": created}})
    order = [{"timestamp": "created_time", "direction": "ascending"}]
    trash: JSON = {"trash": True} if cursor.get("trash") else {}
    asked: JSON = {
        "filter": {"and": within},
        "sorts": order,
        "page_size": PAGE,
        "result_type": "page",
        **({"in_trash": True} if trash else {}),
    }
    if cursor.get("start"):
        asked["start_cursor"] = cursor["start"]
    data = (await api.request("POST", f"/v1/data_sources/{partition.key}/query", json=asked)).data
    rows = data["results"]
    if data["has_more"] and data["next_cursor"]:
        return rows, {**cursor, "start": data["next_cursor"]}
    if not _is_cut(data):
        return rows, _and_trash(cursor, None)
    last = rows[-1]["created_time"]
    if last == created:
        raise WindowTooLarge("Notion lists no more rows of this span of time.")
    return rows, {"created": last, **trash}


def _in_full(fetch: Fetch) -> Fetch:
    """The stream's `fetch`, of pages that tell all that their properties refer to: by itself a page tells 25 references of each.

    Those that may refer to more come after the others of their list, by requests of their own.

    cursor: {"long": ids of those still to come, "then": cursor of the list, None at its end}, or the list's own.
    """

    async def in_full(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        if cursor is None or "long" not in cursor:
            found = await fetch(api, partition, window, cursor)
            cut = [one for one in found.records if one.occurred_at in window and _cut_properties(one.payload)]
            long = [one.external_id for one in cut]
            if not long:
                return found
            others = [one for one in found.records if one.external_id not in long]
            return found._replace(records=others, next_cursor={"long": long, "then": found.next_cursor})
        left, rows, listed = list(cursor["long"]), [], 0
        while left and listed < PROPERTIES_A_FETCH:
            page_id = left.pop(0)
            try:
                row = (await api.get(f"/v1/pages/{page_id}")).data
            except Gone:
                continue
            row.pop("request_id", None)  # by which the same page would never be the same
            for name, value in _cut_properties(row).items():
                row["properties"][name] = await _listed_property(api, page_id, value)
                listed += 1
            rows.append(row)
        return page(rows, _EDITED, {**cursor, "long": left} if left else cursor["then"])

    return in_full


def _cut_properties(row: JSON) -> JSON:
    """The page's properties, by name, that may refer to more than it tells. Only relations say so."""
    found = {}
    for name, value in inner(row, "properties").items():
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in ("title", "rich_text", "people", "relation"):
            continue
        held = value.get(kind) or ()
        if kind in ("title", "rich_text"):
            held = [part for part in held if isinstance(part, dict) and part.get("mention")]
        if value.get("has_more", len(held) >= REFERENCES):
            found[name] = value
    return found


async def _listed_property(api: Api, page_id: str, value: JSON) -> JSON:
    """The property with all that it refers to; as it is where this connection may not list it."""
    # Its id is written as in an address already.
    path, kind = f"/v1/pages/{page_id}/properties/{value['id']}", value["type"]
    whole: JSON = {**value, kind: [], "has_more": True}
    asked: JSON = {"page_size": PAGE}
    for _ in range(LISTS_A_PROPERTY):
        try:
            data = (await api.get(path, asked)).data
        except AccessDenied:
            return value
        whole[kind] += [item[kind] for item in data["results"]]
        if not data["has_more"]:
            return {**whole, "has_more": False}
        asked["start_cursor"] = data["next_cursor"]
    return whole


async def _fetch_comments(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Every page is asked for its comments: a comment does not touch its page's time of editing."""
    cursor = cursor or {"search": {}, "pages": []}
    search, left, start = cursor["search"], list(cursor["pages"]), cursor.get("start")
    if not left:
        found, search = await _search(api, search or None, "page")
        left = [row["id"] for row in found if isinstance(row, dict) and row.get("id")]
    looked_into = left[0] if left else ""
    rows: list[Any] = []
    for _ in range(PAGES_A_FETCH):
        if not left or len(rows) >= PAGE:
            break
        asked = {"block_id": left[0], "page_size": PAGE, **({"start_cursor": start} if start else {})}
        try:
            data = (await api.get("/v1/comments", asked)).data
        except Gone:
            data = {"results": [], "has_more": False}
        rows += data["results"]
        start = data["next_cursor"] if data["has_more"] else None
        if start is None:
            left.pop(0)
    following = {"search": search, "pages": left, "start": start} if left or search is not None else None
    return page(rows, _EDITED, following)._replace(looked_into=looked_into)


async def _content(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    """What is written on pages and rows that were edited in the window, of which each edit of their content is one. A row here is a list
    of blocks, as one request brings it: those of a page, or those within a block.

    cursor: {"search": cursor, None at its end, "pages": [{..., "lists": [[block, number, start, depth], ...]}, ...] still to read}.
    """
    state = deepcopy(cursor) if cursor else {"search": {}, "pages": []}
    left = state["pages"]
    if not left:
        upwards = bool(state["search"].get("upwards"))
        found, state["search"] = await _search(api, state["search"] or None, "page")
        for record in page(found, _EDITED, None).records:
            if record.occurred_at in window:
                own = {"page": record.external_id, "last_edited_time": record.payload["last_edited_time"]}
                left.append({**own, "title": _title(record.payload)[:120], "lists": [[record.external_id, 0, None, 0]]})
            elif record.occurred_at < window.since and not upwards:
                state["search"] = None
    rows: list[Any] = []
    for _ in range(LISTS_A_FETCH):
        if not left:
            break
        lists = left[0]["lists"]
        block, number, start, depth = lists.pop()
        asked = {"page_size": PAGE, **({"start_cursor": start} if start else {})}
        try:
            data = (await api.get(f"/v1/blocks/{block}/children", asked)).data
        except Gone:
            data = None
        if data is not None:
            if data["has_more"]:
                lists.append([block, number + 1, data["next_cursor"], depth])
            # What lies within comes before what follows, so that there are never more than some pages' blocks to remember.
            lists += [[inner, 0, None, depth + 1] for inner in _nested(data["results"]) if depth < DEEPEST]
            known = {name: value for name, value in left[0].items() if name != "lists"}
            rows.append({"id": f"{block}:{number}", **known, "blocks": data["results"]})
        if not lists:
            left.pop(0)
    return rows, state if left or state["search"] is not None else None


def _nested(blocks: list[Any]) -> list[str]:
    """Ids of those that have others within."""
    return [
        block["id"]
        for block in blocks
        if isinstance(block, dict) and block.get("has_children") and block.get("type") not in _NOT_LOOKED_INTO
    ]


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _plain(rich: Any) -> str:
    return "".join(part.get("plain_text") or "" for part in rich or () if isinstance(part, dict)).strip()


def _person(row: JSON | None, context: Context, known: JSON | None = None) -> Entity | None:
    if not row or not row.get("id"):
        return None
    if row.get("object") == "group":  # which may stand among people
        return Entity("group", context.key("group", row["id"]), row.get("name") or "Notion group", known)
    if row.get("type") == "bot":
        return Entity("bot", context.key("user", row["id"]), row.get("name") or "Notion bot", known)
    address = (row.get("person") or {}).get("email")
    return person(context.key("user", row["id"]), row.get("name") or "Notion user", address, known)


def _page(page_id: str, name: str, context: Context) -> Entity:
    return Entity("document", context.key("page", page_id), name)


def _parent(row: JSON, context: Context) -> Entity | None:
    """What the row is in. A row's parent names its database besides the data source that it is in."""
    parent = row.get("parent") or {}
    found = parent.get(parent.get("type") or "")
    if not found or parent["type"] not in ("page_id", "data_source_id", "database_id"):
        return None
    if parent["type"] == "page_id":
        return _page(found, "Page", context)
    kind = parent["type"].removesuffix("_id")
    return Entity("collection", context.key(kind, found), kind.replace("_", " ").capitalize())


def _mentioned(rich: Iterable[JSON] | None, context: Context) -> Iterator[Entity | None]:
    """What rich text mentions: people and pages by id, addresses as they are written."""
    for part in rich or ():
        mention = part.get("mention") or {}
        yield _person(mention.get("user"), context)
        if (mention.get("page") or {}).get("id"):
            yield _page(mention["page"]["id"], part.get("plain_text") or "Page", context)
    yield from (Entity("person", key, key.rpartition(":")[2]) for key in mentioned_emails(_plain(rich)))


def _extract_user(row: JSON, context: Context) -> Graph:
    own = _person(row, context, facts(row, "type", email=(row.get("person") or {}).get("email")))
    if own is None:
        raise RecordRejected("it does not say whom it is about")
    return Graph(own)


def _extract_data_source(row: JSON, context: Context) -> Graph:
    name, known = _plain(row.get("title")) or "Untitled", facts(row, "url", deleted=row.get("in_trash"))
    said = Graph(Entity("collection", context.key("data_source", row["id"]), name, known))
    said.to("part_of", _parent(row, context), _parent({"parent": row.get("database_parent")}, context))
    said.by("authored", _person(row.get("created_by"), context))
    said.to("mentions", *_mentioned(row.get("description"), context))
    return said


def _shown(value: JSON) -> Any:
    """What of a page's property is a fact about the page; None for what is told as text or as relationships.

    What a rollup gathers and a formula works out is as of the page's last edit, which changes elsewhere are none of.
    """
    kind = value.get("type") or ""
    held = value.get(kind)
    if kind in ("status", "select", "date"):
        return (held or {}).get("start" if kind == "date" else "name")
    if kind == "multi_select":
        return [one["name"] for one in held or ()] or None
    if kind == "unique_id" and held and held.get("number") is not None:
        return "-".join(str(part) for part in (held.get("prefix"), held["number"]) if part is not None)
    if kind == "rollup" and held and held.get("type") == "array":
        return [one for each in held["array"] for one in _gathered(each)] or None
    if kind in ("rollup", "formula"):
        return _shown(held or {})
    return held if kind in ("number", "checkbox", "url", "email", "phone_number", "string", "boolean") else None


def _gathered(value: JSON) -> list[Any]:
    """What a rollup shows of another page's property: as a fact about that page, or else its text or the names of people."""
    kind = value.get("type") or ""
    if kind in ("title", "rich_text"):
        return [text] if (text := _plain(value.get(kind))) else []
    if kind == "people":
        return [one["name"] for one in value["people"] or () if one.get("name")]
    shown = _shown(value)
    return shown if isinstance(shown, list) else [] if shown is None else [shown]


def _title(row: JSON) -> str:
    values = (row.get("properties") or {}).values()
    return next((_plain(value.get("title")) for value in values if value.get("type") == "title"), "") or "Untitled"


def _extract_page(row: JSON, context: Context) -> Graph:
    values = row.get("properties") or {}
    shown = {name: found for name, value in values.items() if (found := _shown(value)) is not None}
    known = facts(row, "url", deleted=row.get("in_trash"), properties=shown or None)
    said = Graph(Entity("document", context.key("page", row["id"]), _title(row), known))
    said.to("part_of", _parent(row, context))
    said.by("authored", _person(row.get("created_by"), context))
    for name, value in values.items():
        kind = value.get("type") or ""
        held = value.get(kind)
        if kind in ("title", "rich_text"):
            said.to("mentions", *_mentioned(held, context))
        elif kind == "people":
            said.to("with", *(_person(one, context) for one in held or ()))
        elif kind == "email" and (address := email_key(held)):
            said.to("with", Entity("person", address, address.rpartition(":")[2]))
        elif kind == "relation":
            said.to("about", *(_page(other["id"], name or "Page", context) for other in held or ()))
    return said


def _texts(block: JSON) -> Iterator[list[JSON]]:
    """The rich texts of a block: its own, its caption, the cells of a table's row."""
    held = block.get(block.get("type") or "")
    if isinstance(held, dict):
        yield from (held.get(name) or [] for name in ("rich_text", "caption"))
        yield from held.get("cells") or ()


def _extract_content(row: JSON, context: Context) -> Graph:
    """What is mentioned on a page, and what lies within it: what lies in a column or a toggle names only that block as its parent."""
    said = besides(_page(row["page"], row["title"], context), utc(row["last_edited_time"]))
    for block in row["blocks"]:
        for rich in _texts(block):
            said.to("mentions", *_mentioned(rich, context))
        linked = inner(block, "link_to_page").get("page_id") if block.get("type") == "link_to_page" else None
        said.refer("mentions", context.keys("page", linked))
        if (kind := block.get("type")) in _LIES_WITHIN:
            said.referred("part_of", context.keys(_LIES_WITHIN[kind], block.get("id")))
    return said


def _extract_comment(row: JSON, context: Context) -> Graph:
    name, known = (
        headline(_plain(row.get("rich_text")), "(empty comment)"),
        facts(row, discussion=row.get("discussion_id")),
    )
    said = Graph(Entity("message", context.key("comment", row["id"]), name, known))
    said.to("comment_on", _parent(row, context))
    said.by("authored", _person(row.get("created_by"), context))
    said.to("mentions", *_mentioned(row.get("rich_text"), context))
    return said


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    me = (await api.get("/v1/users/me")).data
    bot = me.get("bot") or {}
    workspace = bot.get("workspace_id") or api.facts.get("workspace_id") or me["id"]
    name = str(bot.get("workspace_name") or me.get("name") or workspace)
    return Account(str(workspace), name, None, {"bot_id": me["id"]})


async def _revoke(grant: Revocation) -> None:
    who = (grant.client_id, grant.client_secret)
    await grant.api.request("POST", "/v1/oauth/revoke", json={"token": grant.access_token}, auth=who)


def _token_facts(token: Mapping[str, Any]) -> JSON:
    return {name: token[name] for name in ("workspace_id", "bot_id") if token.get(name)}


NOTION = Provider(
    links=tuple(
        Link(
            host,
            r"(?:p/)?(?:[\w-]{1,80}/)?(?:[\w%-]{1,200}-)?([0-9a-f]{32})\b",
            lambda match: f"notion:page:{UUID(match[1])}",
        )
        # In the app, as it is called now and was called before, and published.
        for host in ("app.notion.com", "www.notion.so", "notion.so", "*.notion.site")
    ),
    slug="notion",
    name="Notion",
    category="Knowledge",
    summary="What the company has written down: pages, data sources and their rows, and the comments on them.",
    brings=("Pages and what is written on them", "Data sources", "Rows", "Comments", "People"),
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
        Stream(
            "data_sources", "Data sources", WindowKind.SNAPSHOT, listing(_data_sources, _EDITED),
            _extract_data_source, names_partitions=True, record=_EDITED,
        ),
        Stream(
            "rows", "Rows", WindowKind.EXACT, _in_full(pages(_rows, _EDITED)), _extract_page, partitioned=True,
            record=_EDITED,
        ),
        Stream(
            "pages", "Pages", WindowKind.SCAN, _in_full(_fetch_pages), _extract_page, ascending=False, record=_EDITED,
        ),
        Stream(
            "content", "Page content", WindowKind.SCAN, pages(_content, _EDITED), _extract_content, ascending=False,
            record=_EDITED,
        ),
        Stream(
            "comments", "Comments", WindowKind.SCAN, _fetch_comments, _extract_comment, ascending=False,
            record=_EDITED,
        ),
    ),
)  # fmt: skip
