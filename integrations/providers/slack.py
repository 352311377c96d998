"""Slack's Web API: people, channels and who is in them, messages, replies in threads, files."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    ProviderError,
    ReauthRequired,
    RequestRejected,
    Throttled,
    Unavailable,
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
    Record,
    Relationship,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import MOST_MENTIONS, email_key, mentioned_emails

LOOK_BACK = timedelta(days=30)  # before a window's beginning, for threads that go on within it
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)  # a ts has six decimals
# What a token may list: conversation type -> the scope it takes. Direct messages come only to tokens that were made for them.
_TYPES = {"public_channel": "channels:read", "private_channel": "groups:read", "mpim": "mpim:read", "im": "im:read"}
_HISTORY = ("channels:history", "groups:history")
_EVENTS = re.compile(r"(?:channel|group)_|bot_(?:add|remove)|(?:un)?pinned_item|reminder_add|tombstone|huddle_thread")
_USER = re.compile(r"<@([UW][A-Z0-9]+)(?:\|[^>]*)?>")
_CHANNEL = re.compile(r"<#([CGD][A-Z0-9]+)(?:\|[^>]*)?>")
_PERMALINK = re.compile(r"\.slack\.com/archives/([CGD][A-Z0-9]+)/p(\d{10})(\d{6})")
_MARKUP = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")

# -- wire format --------------------------------------------------------------------------------------------------------------

_GONE = ("token_revoked", "token_expired", "account_inactive", "invalid_auth", "not_authed", "user_removed_from_team")
_DENIED = {
    "not_in_channel": "Slack shows this channel's messages only to its members: invite the app to it.",
    "channel_not_found": "Slack no longer shows this channel to this connection.",
    "accesslimited": "The workspace's administrators do not allow access from this network.",
    "org_login_required": "The workspace is being moved to an Enterprise organization.",
}
_DENIES = ("access_denied", "no_permission", "not_allowed_token_type", "ekm_access_denied", "restricted_action",
           "team_access_not_granted", "method_not_supported_for_channel_type", "user_not_found", "enterprise_is_restricted")  # fmt: skip
_PASSING = ("internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org")


class _ThreadGone(ProviderError):
    """A thread that was deleted between the list and the look at its replies."""


def _error(reply: Reply) -> str:
    """Slack's own name of an error, which comes with status 200; "" for none."""
    failed = isinstance(reply.data, dict) and reply.data.get("ok") is False
    return str(reply.data.get("error") or "unknown_error") if failed else ""


def _classify(reply: Reply) -> ProviderError | None:
    error = _error(reply)
    if not error:
        return None
    if reply.status == 429 or error in ("ratelimited", "rate_limited"):
        return Throttled("Slack asks to slow down.", reply.retry_at())
    if error in _GONE:
        return ReauthRequired(f"Slack no longer accepts this connection's access ({error}).")
    if error == "missing_scope":
        return AccessDenied(
            f"Slack needs the scope {reply.data.get('needed') or '?'} for this: connect again to grant it."
        )
    if error in _DENIED or error in _DENIES:
        return AccessDenied(_DENIED.get(error) or f"Slack does not let this connection read it ({error}).")
    if error == "invalid_cursor":
        return CursorExpired("Slack no longer knows the page; going on by date.")
    if error == "thread_not_found":
        return _ThreadGone("The thread is gone.")
    if error in _PASSING or reply.status >= 500:
        return Unavailable(f"Slack has a problem of its own ({error}).", reply.retry_at())
    return RequestRejected(f"Slack refused the request: {error}")


async def _call(api: Api, method: str, params: Mapping[str, Any] | None = None) -> JSON:
    data = (await api.get(f"/api/{method}", params)).data
    if not isinstance(data, dict):
        raise ProviderError("Slack answered with something that is not its own.")
    return data


def _next(data: JSON) -> str | None:
    """The next page's cursor. Nothing else tells the end: pages may be short, even empty, before it."""
    return (data.get("response_metadata") or {}).get("next_cursor") or None


def _time(ts: str) -> datetime:
    """ "1735812345.000200", exactly: as a float its last digits would be lost."""
    seconds, _, fraction = str(ts).partition(".")
    return _EPOCH + timedelta(seconds=int(seconds), microseconds=int(fraction.ljust(6, "0")[:6]))


def _ts(moment: datetime) -> str:
    seconds, rest = divmod(moment - _EPOCH, timedelta(seconds=1))
    return f"{seconds}.{rest // _TICK:06d}"


def _records(rows: Any, record: Callable[[JSON], Record]) -> tuple[list[Record], list[tuple[str, Any, str]]]:
    records, rejected = [], []
    for row in rows:
        try:
            records.append(record(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            named = str(row.get("id") or row.get("ts") or "") if isinstance(row, dict) else ""
            rejected.append((named, row, f"no usable id or time: {type(error).__name__} {error}"))
    return records, rejected


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _snapshot(
    method: str, rows: str, params: Callable[[Api], Mapping[str, Any]], time_of: Callable[[JSON], int]
) -> Callable[..., Any]:
    """Lists of everything. time_of: when a row changed last, in seconds."""

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        data = await _call(api, method, {**params(api), "limit": 200, **(cursor or {})})
        records, rejected = _records(
            data[rows], lambda row: Record(row["id"], datetime.fromtimestamp(time_of(row), UTC), row)
        )
        following = _next(data)
        return Page(records, {"cursor": following} if following else None, None, rejected)

    return fetch


def _listed(api: Api) -> JSON:
    granted = api.facts.get("scopes") or ("channels:read", "groups:read")
    types = [name for name, scope in _TYPES.items() if scope in granted]
    return {"types": ",".join(types), "exclude_archived": "false"}


def _changed(row: JSON) -> int:
    return int(row["updated"]) // 1000 if row.get("updated") else int(row["created"])  # milliseconds, here only


_fetch_channels = _snapshot("conversations.list", "channels", _listed, _changed)
_fetch_users = _snapshot("users.list", "members", lambda api: {}, lambda row: int(row.get("updated") or 0))


async def _fetch_members(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    data = await _call(api, "conversations.members", {"channel": partition.key, "limit": 200, **(cursor or {})})
    created = datetime.fromtimestamp(int(partition.facts.get("created") or 0), UTC)
    records = [
        Record(f"{partition.key}:{user}", created, {"channel": partition.key, "user": user}) for user in data["members"]
    ]
    following = _next(data)
    return Page(records, {"cursor": following} if following else None)


def _messages(rows: Any, partition: Partition) -> tuple[list[Record], list[tuple[str, Any, str]]]:
    return _records(rows, lambda row: Record(f"{partition.key}:{row['ts']}", _time(row["ts"]), row))


async def _history(api: Api, partition: Partition, since: datetime, until: datetime, cursor: str | None) -> JSON:
    """Newest first. Both bounds are included, so the last tick before `until` makes the span half-open."""
    params = {
        "channel": partition.key,
        "oldest": _ts(since),
        "latest": _ts(until - _TICK),
        "inclusive": "true",
        "limit": 999,
    }
    return await _call(api, "conversations.history", {**params, **({"cursor": cursor} if cursor else {})})


async def _fetch_messages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    data = await _history(api, partition, window.since, window.until, cursor["cursor"] if cursor else None)
    records, rejected = _messages(data["messages"], partition)
    following = _next(data)
    oldest = min((record.occurred_at for record in records), default=None)
    return Page(records, {"cursor": following} if following else None, oldest, rejected)


async def _fetch_replies(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Replies stand in no list but their thread's. A page of history names the threads, then each is read to its end.

    cursor: {"history": cursor or None at its end, "threads": [ts, ...] still to read, "replies": cursor in the first of them}.
    """
    state: JSON = cursor or {"history": "", "threads": []}
    if not state["threads"]:
        data = await _history(api, partition, window.since - LOOK_BACK, window.until, state["history"])
        threads = [
            row["ts"] for row in data["messages"]
            if row.get("reply_count") and row.get("thread_ts") == row["ts"] and _time(row.get("latest_reply") or row["ts"]) >= window.since
        ]  # fmt: skip
        following = _next(data)
        return Page([], {"history": following, "threads": threads} if threads or following else None)
    thread, *others = state["threads"]
    params = {
        "channel": partition.key,
        "ts": thread,
        "oldest": _ts(window.since),
        "latest": _ts(window.until - _TICK),
        "inclusive": "true",
        "limit": 999,
    }
    try:
        data = await _call(
            api, "conversations.replies", {**params, **({"cursor": state["replies"]} if state.get("replies") else {})}
        )
    except _ThreadGone:
        data = {"messages": []}
    # The parent comes again on top of every page.
    records, rejected = _messages([row for row in data["messages"] if row.get("ts") != thread], partition)
    if following := _next(data):
        return Page(records, {**state, "replies": following}, None, rejected)
    more = others or state["history"]
    return Page(records, {"history": state["history"], "threads": others} if more else None, None, rejected)


async def _files(api: Api, window: Window, page: int, count: int) -> JSON:
    """Both bounds are included, and files are dated in whole seconds."""
    since, until = (-(-(moment - _EPOCH) // timedelta(seconds=1)) for moment in (window.since, window.until))
    return await _call(api, "files.list", {"ts_from": since, "ts_to": until - 1, "count": count, "page": page})


async def _fetch_files(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    page = cursor["page"] if cursor else 1
    data = await _files(api, window, page, 100)
    records, rejected = _records(
        data["files"], lambda row: Record(row["id"], datetime.fromtimestamp(int(row["created"]), UTC), row)
    )
    return Page(records, {"page": page + 1} if page < int(data["paging"]["pages"]) else None, None, rejected)


async def _count_files(api: Api, partition: Partition, window: Window) -> Estimate | None:
    return Estimate(int((await _files(api, window, 1, 1))["paging"]["total"]), exact=True)


async def _partitions(api: Api) -> list[Partition]:
    """The channels that can be read: a bot reads only those that it is in, a person all public ones too."""
    who = await _call(api, "auth.test")
    found: list[Partition] = []
    params = {**_listed(api), "limit": 1000}
    while True:
        data = await _call(api, "conversations.list", params)
        for row in data["channels"]:
            if not who.get("bot_id") or row.get("is_member") or row.get("is_im") or row.get("is_mpim"):
                found.append(
                    Partition(row["id"], _channel_name(row), {"created": row.get("created"), "url": who.get("url")})
                )
        following = _next(data)
        if following is None:
            return found
        params["cursor"] = following


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _channel_name(row: JSON) -> str:
    return f"#{row['name']}" if row.get("name") else "Direct message"


def _plain(text: str) -> str:
    """Slack's markup as a person reads it."""
    return html.unescape(_MARKUP.sub(lambda found: found[2] or re.sub(r"^(?:mailto:|![a-z]+\^)", "", found[1]), text))


def _mentions(text: str, source: str, ns: str) -> list[Relationship]:
    found = [f"{ns}:user:{user}" for user in _USER.findall(text)] + [
        f"{ns}:channel:{channel}" for channel in _CHANNEL.findall(text)
    ]
    found += [f"{ns}:message:{channel}:{seconds}.{rest}" for channel, seconds, rest in _PERMALINK.findall(text)]
    keys = dict.fromkeys([*found[:MOST_MENTIONS], *mentioned_emails(_plain(text))])
    return [Relationship("mentions", source, key) for key in keys if key != source]


def _author(row: JSON, ns: str) -> Entity | None:
    if row.get("bot_id"):
        name = (row.get("bot_profile") or {}).get("name") or row.get("username") or row["bot_id"]
        return Entity("bot", f"{ns}:bot:{row['bot_id']}", name)
    if not row.get("user"):
        return None
    profile = row.get("user_profile") or {}
    return Entity("person", f"{ns}:user:{row['user']}", profile.get("real_name") or profile.get("name") or row["user"])


def _file(row: JSON, ns: str, properties: JSON | None) -> Entity:
    return Entity("document", f"{ns}:file:{row['id']}", row.get("title") or row.get("name") or row["id"], properties)


def _extract_message(row: JSON, context: Context) -> Graph:
    ns, channel, ts = context.namespace, context.partition.key, row["ts"]
    key, text = f"{ns}:message:{channel}:{ts}", row.get("text") or ""
    name = _plain(text).strip().partition("\n")[0][:120] or "(no text)"
    url = (
        f"{context.partition.facts['url']}archives/{channel}/p{ts.replace('.', '')}"
        if context.partition.facts.get("url")
        else None
    )
    edited = row.get("edited") or {}
    facts = {
        "url": url,
        "subtype": row.get("subtype"),
        "edited_at": edited.get("ts") and _time(edited["ts"]).isoformat(),
    }
    kind = "event" if _EVENTS.match(row.get("subtype") or "") else "message"
    entities = [Entity(kind, key, name, {name: value for name, value in facts.items() if value})]
    entities.append(Entity("channel", f"{ns}:channel:{channel}", context.partition.label or channel))
    said = [Relationship("posted_in", key, entities[1].key)]
    author = _author(row, ns)
    if author is not None:
        entities.append(author)
        said.append(Relationship("authored", author.key, key))
    if row.get("thread_ts") and row["thread_ts"] != ts:
        said.append(Relationship("reply_to", key, f"{ns}:message:{channel}:{row['thread_ts']}"))
    for attached in row.get("files") or ():
        if attached.get("id") and attached.get("mode") != "tombstone":
            entities.append(_file(attached, ns, None))
            said.append(Relationship("attached_to", entities[-1].key, key))
    said += _mentions(text, key, ns)
    return Graph(entities, said)


def _extract_channel(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    facts = {"topic": (row.get("topic") or {}).get("value"), "purpose": (row.get("purpose") or {}).get("value"),
             "archived": row.get("is_archived"), "private": row.get("is_private"), "members": row.get("num_members")}  # fmt: skip
    channel = Entity(
        "channel",
        f"{ns}:channel:{row['id']}",
        _channel_name(row),
        {k: v for k, v in facts.items() if v not in (None, "")},
    )
    said = []
    if row.get("creator"):
        said.append(Relationship("created", f"{ns}:user:{row['creator']}", channel.key))
    if row.get("is_im") and row.get("user"):
        said.append(Relationship("member_of", f"{ns}:user:{row['user']}", channel.key))
    return Graph([channel], said)


def _extract_member(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    person = Entity("person", f"{ns}:user:{row['user']}", row["user"])
    channel = Entity("channel", f"{ns}:channel:{row['channel']}", context.partition.label or row["channel"])
    return Graph([person, channel], [Relationship("member_of", person.key, channel.key)])


def _extract_user(row: JSON, context: Context) -> Graph:
    ns, profile = context.namespace, row.get("profile") or {}
    own = f"{ns}:user:{row['id']}"
    name = profile.get("real_name") or row.get("real_name") or row.get("name") or row["id"]
    facts = {
        "title": profile.get("title"),
        "phone": profile.get("phone"),
        "email": profile.get("email"),
        "deleted": row.get("deleted"),
    }
    facts = {name: value for name, value in facts.items() if value}
    if row.get("is_bot") or row["id"] == "USLACKBOT":
        aliases = (f"{ns}:bot:{profile['bot_id']}",) if profile.get("bot_id") else ()
        return Graph([Entity("bot", own, name, facts, aliases)], [])
    # An address that nobody has confirmed proves nothing.
    address = email_key(profile.get("email")) if row.get("is_email_confirmed", True) else None
    return Graph([Entity("person", address or own, name, facts, (own,) if address else ())], [])


def _extract_file(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    facts = {"url": row.get("permalink"), "type": row.get("mimetype") or row.get("filetype"), "size": row.get("size")}
    file = _file(row, ns, {name: value for name, value in facts.items() if value is not None})
    said = [Relationship("authored", f"{ns}:user:{row['user']}", file.key)] if row.get("user") else []
    shared = [*(row.get("channels") or ()), *(row.get("groups") or ()), *(row.get("ims") or ())]
    said += [Relationship("posted_in", file.key, f"{ns}:channel:{channel}") for channel in shared]
    return Graph([file], said)


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/api/auth.test")
    who, granted = reply.data, reply.headers.get("x-oauth-scopes")
    scopes = None if granted is None else tuple(scope.strip() for scope in granted.split(",") if scope.strip())
    facts = {"url": who.get("url"), "user_id": who.get("user_id")}
    return Account(
        str(who["team_id"]),
        str(who.get("team") or who["team_id"]),
        scopes,
        facts if scopes is None else {**facts, "scopes": list(scopes)},
    )


async def _revoke(grant: Revocation) -> None:
    await grant.api.request("POST", "/api/auth.revoke", headers={"Authorization": f"Bearer {grant.access_token}"})


def _stream(
    name: str, label: str, window: WindowKind, fetch: Any, extract: Any, needs: tuple[str, ...], **more: Any
) -> Stream:
    return Stream(name, label, window, fetch, extract, ascending=False, needs=needs, **more)


SLACK = Provider(
    slug="slack",
    name="Slack",
    category="Communication",
    summary="What people talk about: channels, messages, threads and files.",
    brings=("People", "Channels", "Messages", "Thread replies", "Files"),
    api_url="https://slack.com",
    auth_url="https://slack.com",
    identify=_identify,
    partitions=_partitions,
    classify=_classify,
    expired=lambda reply: _error(reply) == "token_expired",
    # Each method has its own limit (history and replies 50 a minute, lists 20), and bursts are let through.
    budget=RateBudget(requests=100, seconds=60, concurrency=3),
    oauth=OAuth(
        "/oauth/v2/authorize", "/api/oauth.v2.access",
        ("channels:read", "channels:history", "groups:read", "groups:history", "users:read", "users:read.email", "team:read", "files:read"),
        scope_separator=",", revoke=_revoke,
    ),
    token_help="A user token (xoxp-...) with the scopes channels:read, channels:history, groups:read, groups:history, users:read, "
    "users:read.email and files:read; a bot token (xoxb-...) reads only the channels that the bot was invited to.",
    settle=timedelta(minutes=1),
    ids_by_account=True,
    streams=(
        _stream("users", "People", WindowKind.SNAPSHOT, _fetch_users, _extract_user, ("users:read", "users:read.email"), page_size=200),
        _stream("channels", "Channels", WindowKind.SNAPSHOT, _fetch_channels, _extract_channel, ("channels:read", "groups:read"), page_size=200),
        _stream("members", "Channel members", WindowKind.SNAPSHOT, _fetch_members, _extract_member, ("channels:read", "groups:read"),
            partitioned=True, page_size=200),
        _stream("messages", "Messages", WindowKind.EXACT, _fetch_messages, _extract_message, _HISTORY, partitioned=True, page_size=999),
        # Read in one go: a thread's replies may come long after what they reply to.
        _stream("replies", "Thread replies", WindowKind.SCAN, _fetch_replies, _extract_message, _HISTORY, partitioned=True, page_size=10),
        _stream("files", "Files", WindowKind.EXACT, _fetch_files, _extract_file, ("files:read",), count=_count_files),
    ),
)  # fmt: skip
