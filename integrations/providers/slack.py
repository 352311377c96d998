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
    Clock,
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
from integrations.providers.wire import reader, records

LOOK_BACK = timedelta(days=30)  # before a window's beginning, for threads that go on within it
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_TICK = timedelta(microseconds=1)  # a ts has six decimals
# What a token may list: conversation type -> the scope it takes. Direct messages come only to tokens that were made for them.
_TYPES = {"public_channel": "channels:read", "private_channel": "groups:read", "mpim": "mpim:read", "im": "im:read"}
SCOPES = ("channels:read", "channels:history", "groups:read", "groups:history", "users:read", "users:read.email", "team:read", "files:read")  # fmt: skip
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
    "accesslimited": "Slack: the workspace's administrators do not allow access from this network.",
}
_DENIES = ("access_denied", "no_permission", "not_allowed_token_type", "ekm_access_denied", "team_access_not_granted",
           "org_login_required", "method_not_supported_for_channel_type", "enterprise_is_restricted")  # fmt: skip
_GRANT_ERRORS = frozenset({"invalid_code", "code_already_used", "code_expired", "invalid_refresh_token", *_GONE})
_PASSING = ("internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org")


class _ThreadGone(ProviderError):
    """A thread that was deleted between the list and the look at its replies."""


def _error(reply: Reply) -> str:
    """Slack's own name of an error, which comes with status 200; "" for none."""
    failed = isinstance(reply.data, dict) and reply.data.get("ok") is False
    return str(reply.data.get("error") or "unknown_error") if failed else ""


def _classify(reply: Reply) -> ProviderError | None:
    error = _error(reply)
    if reply.status == 429 or error in ("ratelimited", "rate_limited"):
        return Throttled("Slack asks to slow down.", reply.retry_at() or datetime.now(UTC) + timedelta(minutes=1))
    if not error:
        return None
    if error in _GONE:
        return ReauthRequired(f"Slack no longer accepts this connection's access ({error}).")
    if error == "missing_scope":
        return AccessDenied(f"Slack needs the scope {reply.data.get('needed')} for this: connect again to grant it.")
    if error in _DENIED or error in _DENIES:
        return AccessDenied(_DENIED.get(error) or f"Slack does not let this connection read it ({error}).")
    if error == "invalid_cursor":
        return CursorExpired("Slack no longer knows the page; going on by date.")
    if error == "thread_not_found":
        return _ThreadGone("The thread is gone.")
    if error in _PASSING or reply.status >= 500:
        return Unavailable(f"Slack has a problem of its own ({error}).", reply.retry_at())
    return RequestRejected(f"Slack refused the request: {error}")


async def _call(api: Api, method: str, cursor: str | None = None, **params: Any) -> JSON:
    data = (await api.get(f"/api/{method}", {**params, "cursor": cursor} if cursor else params)).data
    if not isinstance(data, dict):
        raise Unavailable("Slack answered with something that is not its own.")
    return data


def _next(data: JSON) -> JSON | None:
    """The next page's cursor. Nothing else tells the end: pages may be short, even empty, before it."""
    cursor = (data.get("response_metadata") or {}).get("next_cursor")
    return {"cursor": cursor} if cursor else None


def _time(ts: Any) -> datetime:
    """The moment of a ts like "1735812345.000200", or of whole seconds. Not by float, which would lose the last digits."""
    seconds, _, fraction = str(ts).partition(".")
    return _EPOCH + timedelta(seconds=int(seconds), microseconds=int(fraction.ljust(6, "0")[:6]))


def _ts(moment: datetime) -> str:
    seconds, rest = divmod(moment - _EPOCH, _SECOND)
    return f"{seconds}.{rest // _TICK:06d}"


def _page(
    rows: list[Any], id_of: Callable[[JSON], object], time_of: Callable[[JSON], Any], following: JSON | None
) -> Page:
    found, rejected = records(rows, reader(id_of, lambda row: _time(time_of(row))))
    return Page(found, following, None, rejected)


def _id(row: JSON) -> object:
    return row["id"]


# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _fetch_users(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    data = await _call(api, "users.list", limit=200, **(cursor or {}))
    return _page(data["members"], _id, lambda row: row.get("updated") or 0, _next(data))


def _listed(api: Api) -> JSON:
    granted = api.facts.get("scopes") or ("channels:read", "groups:read")
    types = [name for name, scope in _TYPES.items() if scope in granted]
    return {"types": ",".join(types), "exclude_archived": "false", "limit": 200}


def _changed(row: JSON) -> Any:
    return int(row["updated"]) // 1000 if row.get("updated") else row["created"]  # milliseconds, here only


async def _fetch_channels(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    data = await _call(api, "conversations.list", **_listed(api), **(cursor or {}))
    return _page(data["channels"], _id, _changed, _next(data))


async def _partitions(api: Api) -> list[Partition]:
    """The channels that can be read: a bot reads only those that it is in, a person all public ones too."""
    who = await _call(api, "auth.test")
    found: list[Partition] = []
    cursor: JSON | None = {}
    while cursor is not None:
        data = await _call(api, "conversations.list", **_listed(api), **cursor)
        for row in data["channels"]:
            if not who.get("bot_id") or row.get("is_member") or row.get("is_im") or row.get("is_mpim"):
                facts = {"created": row.get("created") or 0, "url": who.get("url")}
                found.append(Partition(row["id"], _channel_name(row), facts))
        cursor = _next(data)
    return found


async def _fetch_members(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """One record a channel: who is in it. Dated before the channel's own record, which knows more about it."""
    members: list[str] = []
    more: JSON | None = {}
    while more is not None:
        data = await _call(api, "conversations.members", channel=partition.key, limit=1000, **more)
        members += data["members"]
        more = _next(data)
    payload = {"channel": partition.key, "members": members}
    return Page([Record(partition.key, _time(partition.facts.get("created", 0)) - _SECOND, payload)], None)


def _messages(rows: list[Any], partition: Partition, following: JSON | None) -> Page:
    return _page(rows, lambda row: f"{partition.key}:{row['ts']}", lambda row: row["ts"], following)


def _within(partition: Partition, since: datetime, until: datetime) -> JSON:
    """Both bounds are included, so the last tick before `until` makes the span half-open."""
    span = {"oldest": _ts(since), "latest": _ts(until - _TICK), "inclusive": "true"}
    return {"channel": partition.key, **span, "limit": 999}


async def _fetch_messages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Newest first."""
    span = _within(partition, window.since, window.until)
    data = await _call(api, "conversations.history", **span, **(cursor or {}))
    page = _messages(data["messages"], partition, _next(data))
    return page._replace(position=min((record.occurred_at for record in page.records), default=None))


async def _fetch_replies(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Replies stand in no list but their thread's. A page of history names the threads, then each is read to its end.

    cursor: {"history": cursor, None at its end, "threads": [ts, ...] still to read, "replies": cursor in the first of them}.
    """
    state = cursor or {"history": None, "threads": []}
    if not state["threads"]:
        span = _within(partition, window.since - LOOK_BACK, window.until)
        data = await _call(api, "conversations.history", state["history"], **span)
        threads = [row["ts"] for row in data["messages"] if _is_busy(row, window.since)]
        history = (_next(data) or {}).get("cursor")
        return Page([], {"history": history, "threads": threads} if threads or history else None)
    thread, *others = state["threads"]
    span = _within(partition, window.since, window.until)
    try:
        data = await _call(api, "conversations.replies", state.get("replies"), ts=thread, **span)
    except _ThreadGone:
        data = {"messages": []}
    following: JSON | None = None
    if more := _next(data):
        following = {**state, "replies": more["cursor"]}
    elif others or state["history"]:
        following = {"history": state["history"], "threads": others}
    # The parent comes again on top of every page.
    rows = [row for row in data["messages"] if row.get("ts") != thread]
    return _messages(rows, partition, following)


def _is_busy(row: JSON, since: datetime) -> bool:
    """Whether the message begins a thread that somebody answered in since then."""
    begins = row.get("reply_count") and row.get("thread_ts") == row.get("ts")
    return bool(begins) and (not row.get("latest_reply") or _time(row["latest_reply"]) >= since)


async def _files(api: Api, window: Window, page: int, count: int) -> JSON:
    """Both bounds are included, and files are dated in whole seconds."""
    since, until = (-(-(moment - _EPOCH) // _SECOND) for moment in (window.since, window.until))
    return await _call(api, "files.list", ts_from=since, ts_to=until - 1, count=count, page=page)


async def _fetch_files(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    page = cursor["page"] if cursor else 1
    data = await _files(api, window, page, 100)
    following = {"page": page + 1} if page < int(data["paging"]["pages"]) else None
    return _page(data["files"], _id, lambda row: row["created"], following)


async def _count_files(api: Api, partition: Partition, window: Window) -> Estimate | None:
    return Estimate(int((await _files(api, window, 1, 1))["paging"]["total"]), exact=True)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _channel_name(row: JSON) -> str:
    return f"#{row['name']}" if row.get("name") else "Direct message"


def _plain(text: str) -> str:
    """Slack's markup as a person reads it."""
    return html.unescape(_MARKUP.sub(lambda found: found[2] or re.sub(r"^(?:mailto:|![a-z]+\^)", "", found[1]), text))


def _mentions(text: str, source: str, ns: str) -> list[Relationship]:
    found = [f"{ns}:user:{user}" for user in _USER.findall(text)]
    found += [f"{ns}:channel:{channel}" for channel in _CHANNEL.findall(text)]
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
    facts: JSON = {"subtype": row["subtype"]} if row.get("subtype") else {}
    if context.partition.facts.get("url"):
        facts["url"] = f"{context.partition.facts['url']}archives/{channel}/p{ts.replace('.', '')}"
    if row.get("edited"):
        facts["edited_at"] = _time(row["edited"]["ts"]).isoformat()
    if row.get("subtype") == "tombstone":
        facts["deleted"] = True
    kind = "event" if _EVENTS.match(row.get("subtype") or "") else "message"
    place = Entity("channel", f"{ns}:channel:{channel}", context.partition.label or channel)
    entities = [Entity(kind, key, name, facts), place]
    said = [Relationship("part_of", key, place.key)]
    author = _author(row, ns)
    if author is not None:
        entities.append(author)
        said.append(Relationship("authored", author.key, key))
    if row.get("thread_ts") and row["thread_ts"] != ts:
        said.append(Relationship("replied_to", key, f"{ns}:message:{channel}:{row['thread_ts']}"))
    for attached in row.get("files") or ():
        if attached.get("id") and attached.get("mode") != "tombstone":
            entities.append(_file(attached, ns, None))
            said.append(Relationship("attached_to", entities[-1].key, key))
    said += _mentions(text, key, ns)
    return Graph(entities, said)


def _extract_channel(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    facts: JSON = {name: row.get(f"is_{name}") for name in ("archived", "private")}
    facts |= {name: (row.get(name) or {}).get("value") or None for name in ("topic", "purpose")}
    channel = Entity("channel", f"{ns}:channel:{row['id']}", _channel_name(row), facts)
    creator, partner = row.get("creator"), row.get("user") if row.get("is_im") else None
    said = [Relationship("authored", f"{ns}:user:{creator}", channel.key)] if creator else []
    said += [Relationship("member_of", f"{ns}:user:{partner}", channel.key)] if partner else []
    return Graph([channel], said)


def _extract_members(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    channel = Entity("channel", f"{ns}:channel:{row['channel']}", context.partition.label or row["channel"], {})
    people = [Entity("person", f"{ns}:user:{user}", user) for user in row["members"]]
    return Graph([channel, *people], [Relationship("member_of", person.key, channel.key) for person in people])


def _extract_user(row: JSON, context: Context) -> Graph:
    ns, profile = context.namespace, row.get("profile") or {}
    own = f"{ns}:user:{row['id']}"
    name = profile.get("real_name") or row.get("real_name") or row.get("name") or row["id"]
    facts = {name: profile[name] for name in ("title", "phone", "email") if profile.get(name)}
    if row.get("deleted"):
        facts["deleted"] = True
    if row.get("is_bot") or row["id"] == "USLACKBOT":
        aliases = (f"{ns}:bot:{profile['bot_id']}",) if profile.get("bot_id") else ()
        return Graph([Entity("bot", own, name, facts, aliases)], [])
    # An address that nobody has confirmed proves nothing.
    address = email_key(profile.get("email")) if row.get("is_email_confirmed", True) else None
    return Graph([Entity("person", address or own, name, facts, (own,) if address else ())], [])


def _extract_file(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    facts = {"url": row.get("permalink"), "type": row.get("mimetype") or row.get("filetype"), "size": row.get("size")}
    file = _file(row, ns, facts)
    said = [Relationship("authored", f"{ns}:user:{row['user']}", file.key)] if row.get("user") else []
    shared = [*(row.get("channels") or ()), *(row.get("groups") or ()), *(row.get("ims") or ())]
    said += [Relationship("part_of", file.key, f"{ns}:channel:{channel}") for channel in shared]
    return Graph([file], said)


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/api/auth.test")
    who, granted = reply.data, reply.headers.get("x-oauth-scopes")
    scopes = None if granted is None else tuple(scope.strip() for scope in granted.split(",") if scope.strip())
    facts = {"url": who.get("url"), "scopes": list(scopes or ())}
    return Account(str(who["team_id"]), str(who.get("team") or who["team_id"]), scopes, facts)


def _token_reply(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The person's tokens stand apart from the app's, except when they are refreshed; errors come with status 200."""
    if not answer.get("ok"):
        return {"error": answer.get("error") or "unknown_error"}
    token = answer.get("authed_user") or {}
    token = token if token.get("access_token") else answer
    return {**token, "scope": [scope for scope in str(token.get("scope") or "").split(",") if scope]}


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
    partition_label="Channels",
    classify=_classify,
    expired=lambda reply: _error(reply) == "token_expired",
    # Each method has its own limit (history and replies 50 a minute, lists 20), and bursts are let through.
    budget=RateBudget(requests=100, seconds=60, concurrency=3),
    # A person's token: an app's own would see only the channels that somebody invites it to.
    oauth=OAuth(
        "/oauth/v2/authorize", "/api/oauth.v2.access", (), extra_authorize={"user_scope": ",".join(SCOPES)}, pkce=False,
        token_reply=_token_reply, grant_errors=_GRANT_ERRORS, revoke=_revoke,
    ),
    token_help="A user token (xoxp-...) with the scopes channels:read, channels:history, groups:read, groups:history, users:read, "
    "users:read.email and files:read; a bot token (xoxb-...) reads only the channels that the bot was invited to.",
    settle=timedelta(minutes=1),
    ids_by_account=True,
    streams=(
        _stream("users", "People", WindowKind.SNAPSHOT, _fetch_users, _extract_user, ("users:read", "users:read.email"), page_size=200),
        _stream("channels", "Channels", WindowKind.SNAPSHOT, _fetch_channels, _extract_channel, ("channels:read", "groups:read"), page_size=200),
        _stream("members", "Channel members", WindowKind.SNAPSHOT, _fetch_members, _extract_members, ("channels:read", "groups:read"),
            partitioned=True, page_size=200),
        _stream("messages", "Messages", WindowKind.EXACT, _fetch_messages, _extract_message, _HISTORY, partitioned=True, page_size=999, clock=Clock.CREATED),
        # Read in one go: a thread's replies may come long after what they reply to.
        _stream("replies", "Thread replies", WindowKind.SCAN, _fetch_replies, _extract_message, _HISTORY, partitioned=True, page_size=10, clock=Clock.CREATED),
        _stream("files", "Files", WindowKind.EXACT, _fetch_files, _extract_file, ("files:read",), count=_count_files, clock=Clock.CREATED),
    ),
)  # fmt: skip
