"""Slack's Web API: people, channels and who is in them, messages, replies in threads, files.

Not imported are replies to threads that began more than 30 days (`LOOK_BACK`) before the window they fall into: Slack lists replies by
their thread only, and threads by when they began. What became of a message later is found by importing its span again: an edit, and that
it was deleted. Of people's profiles are kept name, address and title.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Gone,
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
    Clock,
    Context,
    Entity,
    Estimate,
    Extract,
    Fetch,
    Graph,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Record,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts, headline, person
from integrations.providers.replies import ErrorTable, Means, body, error_in
from integrations.providers.text import MOST_MENTIONS, mentioned_emails
from integrations.providers.wire import EPOCH, SECOND, Rows, all_rows, listing, page, pages, reader

# Of files that are listed by number; seen: what is asked for behind it is answered by the first page. In no document of Slack's.
MOST_PAGES = 100
_MOST = 999  # rows that a page of conversations, their members or messages may be asked for
LOOK_BACK = timedelta(days=30)  # before a window's beginning, for threads that go on within it
_TICK = timedelta(microseconds=1)  # a ts has six decimals
# What a token may list: conversation type -> the scope it takes. Direct messages come only to tokens that were made for them.
_TYPES = {"public_channel": "channels:read", "private_channel": "groups:read", "mpim": "mpim:read", "im": "im:read"}
SCOPES = ("channels:read", "channels:history", "groups:read", "groups:history", "users:read", "users:read.email", "files:read")  # fmt: skip
_OF_PROFILE = ("real_name", "display_name", "email", "title", "bot_id")
_HISTORY = ("channels:history", "groups:history")
_EVENTS = re.compile(r"(?:channel|group)_|bot_(?:add|remove)|(?:un)?pinned_item|reminder_add|tombstone|huddle_thread")
# No "<" within: each of many that nothing ends would be looked after to the text's end.
_USER = re.compile(r"<@([UW][A-Z0-9]+)(?:\|[^<>]*)?>")
_CHANNEL = re.compile(r"<#([CGD][A-Z0-9]+)(?:\|[^<>]*)?>")
_PERMALINK = re.compile(r"\.slack\.com/archives/([CGD][A-Z0-9]+)/p(\d{10})(\d{6})")
_MARKUP = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")

# -- wire format --------------------------------------------------------------------------------------------------------------

_GONE = ("token_revoked", "token_expired", "account_inactive", "invalid_auth", "not_authed", "user_removed_from_team")
_DENIES = ("access_denied", "no_permission", "not_allowed_token_type", "ekm_access_denied", "team_access_not_granted",
           "method_not_supported_for_channel_type", "enterprise_is_restricted")  # fmt: skip
# The last two: while a workspace moves into an Enterprise organization, as the pages of all methods say.
_PASSING = ("internal_error", "fatal_error", "service_unavailable", "request_timeout", "fetch_members_failed",
            "team_added_to_org", "org_login_required")  # fmt: skip
_SLOWER = ("ratelimited", "rate_limited")
_ERRORS: ErrorTable = {
    **dict.fromkeys((429, *_SLOWER), Means(Throttled, "Slack asks to slow down.", wait=60)),
    **dict.fromkeys(_GONE, Means(ReauthRequired, "Slack no longer accepts this connection's access ({code}).")),
    "missing_scope": Means(AccessDenied, "Slack needs the scope {said} for this: connect again to grant it."),
    "not_in_channel": Means(
        AccessDenied, "Slack shows this channel's messages only to its members: invite the app to it."
    ),
    "channel_not_found": Means(AccessDenied, "Slack no longer shows this channel to this connection."),
    "accesslimited": Means(
        AccessDenied, "Slack: the workspace's administrators do not allow access from this network."
    ),
    **dict.fromkeys(_DENIES, Means(AccessDenied, "Slack does not let this connection read it ({code}).")),
    "invalid_cursor": Means(CursorExpired, "Slack no longer knows the page; going on by date."),
    "thread_not_found": Means(Gone, "The thread is gone from Slack."),
    **dict.fromkeys(_PASSING, Means(Unavailable, "Slack has a problem of its own ({code}).")),
}
_GRANT_ERRORS = frozenset({"invalid_code", "code_already_used", "code_expired", "invalid_refresh_token", *_GONE})


def _error(reply: Reply) -> str:
    """Slack's own name of an error, which comes with status 200; "" for none."""
    return str(body(reply).get("error") or "unknown_error") if body(reply).get("ok") is False else ""


def _classify(reply: Reply) -> ProviderError | None:
    error = _error(reply)
    found = error_in(_ERRORS, reply, error, body(reply).get("needed"))
    if found or not error:
        return found
    if reply.status >= 500:
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


async def _list(api: Api, method: str, rows: str, cursor: JSON | None, **params: Any) -> Rows:
    data = await _call(api, method, **params, **(cursor or {}))
    return data[rows], _next(data)


def _time(ts: Any) -> datetime:
    """The moment of a ts like "1735812345.000200", or of whole seconds. Not by float, which would lose the last digits."""
    seconds, _, fraction = str(ts).partition(".")
    return EPOCH + timedelta(seconds=int(seconds), microseconds=int(fraction.ljust(6, "0")[:6]))


def _ts(moment: datetime) -> str:
    seconds, rest = divmod(moment - EPOCH, SECOND)
    return f"{seconds}.{rest // _TICK:06d}"


# -- fetching -----------------------------------------------------------------------------------------------------------------

_UPDATED, _CREATED = (
    reader("id", lambda row: _time(row.get("updated") or 0)),
    reader("id", lambda row: _time(row["created"])),
)
# Channels are dated in milliseconds, and nothing else is.
_CHANGED = reader("id", lambda row: _time(int(row["updated"]) // 1000 if row.get("updated") else row["created"]))


async def _users(api: Api, cursor: JSON | None) -> Rows:
    rows, following = await _list(api, "users.list", "members", cursor, limit=200)
    return [_at_work(row) if isinstance(row, dict) else row for row in rows], following


def _at_work(row: JSON) -> JSON:
    """Somebody without what their profile tells besides: telephone, status, whatever a workspace has people fill in."""
    profile = row.get("profile")
    kept = {name: profile[name] for name in _OF_PROFILE if name in profile} if isinstance(profile, dict) else {}
    return {**row, "profile": kept}


async def _channels(api: Api, cursor: JSON | None) -> Rows:
    granted = api.facts.get("scopes") or ("channels:read", "groups:read")
    types = ",".join(name for name, scope in _TYPES.items() if scope in granted)
    return await _list(
        api, "conversations.list", "channels", cursor, types=types, exclude_archived="false", limit=_MOST
    )


async def _partitions(api: Api) -> list[Partition]:
    """The channels that can be read: a bot reads only those that it is in, a person all public ones too."""
    who = await _call(api, "auth.test")
    return [
        Partition(row["id"], _channel_name(row), {"created": row.get("created") or 0, "url": who.get("url")})
        for row in await all_rows(partial(_channels, api), api.longest_wait)
        if not who.get("bot_id") or row.get("is_member") or row.get("is_im") or row.get("is_mpim")
    ]


async def _fetch_members(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """One record a channel: who is in it. Dated before the channel's own record, which knows more about it."""
    rows_at = partial(_list, api, "conversations.members", "members", channel=partition.key, limit=_MOST)
    members = await all_rows(rows_at, api.longest_wait)
    payload = {"channel": partition.key, "members": members}
    return Page([Record(partition.key, _time(partition.facts.get("created", 0)) - SECOND, payload)], None)


def _messages(rows: list[Any], partition: Partition, following: JSON | None) -> Page:
    return page(rows, reader(lambda row: f"{partition.key}:{row['ts']}", lambda row: _time(row["ts"])), following, min)


def _within(partition: Partition, since: datetime, until: datetime) -> JSON:
    """Both bounds are included, so the last tick before `until` makes the span half-open."""
    span = {"oldest": _ts(since), "latest": _ts(until - _TICK), "inclusive": "true"}
    return {"channel": partition.key, **span, "limit": _MOST}


async def _fetch_messages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Newest first."""
    span = _within(partition, window.since, window.until)
    rows, following = await _list(api, "conversations.history", "messages", cursor, **span)
    return _messages(rows, partition, following)


async def _fetch_replies(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Replies stand in no list but their thread's. A page of history names the threads, then each is read to its end.

    cursor: {"history": cursor, None at its end, "threads": [ts, ...] still to read, "replies": cursor in the first of them}.
    """
    state, following = cursor or {"history": None, "threads": []}, None
    if not state["threads"]:
        span = _within(partition, window.since - LOOK_BACK, window.until)
        data = await _call(api, "conversations.history", state["history"], **span)
        threads = [row["ts"] for row in data["messages"] if _is_busy(row, window.since)]
        history = (_next(data) or {}).get("cursor")
        following = {"history": history, "threads": threads} if threads or history else None
        return Page([], following, looked_into=f"from {data['messages'][-1]['ts']}" if data["messages"] else "")
    thread, *others = state["threads"]
    span = _within(partition, window.since, window.until)
    try:
        data = await _call(api, "conversations.replies", state.get("replies"), ts=thread, **span)
    except Gone:
        data = {"messages": []}
    if more := _next(data):
        following = {**state, "replies": more["cursor"]}
    elif others or state["history"]:
        following = {"history": state["history"], "threads": others}
    # The parent comes again on top of every page.
    rows = [row for row in data["messages"] if row.get("ts") != thread]
    return _messages(rows, partition, following)._replace(position=None, looked_into=thread)


def _is_busy(row: JSON, since: datetime) -> bool:
    """Whether the message begins a thread that somebody answered in since then."""
    begins = row.get("reply_count") and row.get("thread_ts") == row.get("ts")
    return bool(begins) and (not row.get("latest_reply") or _time(row["latest_reply"]) >= since)


async def _list_files(api: Api, window: Window, page: int, count: int) -> JSON:
    """Both bounds are included, and files are dated in whole seconds."""
    since, until = (-(-(moment - EPOCH) // SECOND) for moment in (window.since, window.until))
    return await _call(api, "files.list", ts_from=since, ts_to=until - 1, count=count, page=page)


async def _files(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    """The first page says how many there are, and then they are read from the last to the first: a file that is deleted meanwhile moves
    those behind it forward, by numbers onto a page that is still to come."""
    number = cursor["page"] if cursor else 1
    data = await _list_files(api, window, number, 100)
    if cursor is not None:
        return data["files"], {"page": number - 1} if number > 1 else None
    count = int(data["paging"]["pages"])
    if count > MOST_PAGES:
        raise WindowTooLarge("Slack does not list that many files at once.")
    return data["files"], {"page": count} if count > 1 else None


async def _count_files(api: Api, partition: Partition, window: Window) -> Estimate | None:
    return Estimate(int((await _list_files(api, window, 1, 1))["paging"]["total"]), exact=True)


async def _newest(api: Api, partition: Partition, ts: str) -> datetime | None:
    """The time of the newest message of the channel that is as old as that, or older."""
    data = await _call(api, "conversations.history", channel=partition.key, latest=ts, inclusive="true", limit=1)
    return _time(data["messages"][0]["ts"]) if data["messages"] else None


async def _gone_messages(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
    """Those in whose place an older message stands. A workspace that does not pay is shown nothing that is older than some months, and
    others may have Slack throw away what is: of a channel's oldest message it can't be told."""
    gone = []
    for record in records:
        newest = await _newest(api, partition, record.payload["ts"])
        if newest is not None and newest < record.occurred_at:
            gone.append(record.external_id)
    return gone


async def _gone_replies(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
    """Those that are missing below what they reply to. Where that is not found either, it is gone as a message is, or hidden for its own
    age: that what was said below it is younger tells nothing."""
    gone = []
    for record in records:
        thread, ts = record.payload["thread_ts"], record.payload["ts"]
        at = {"channel": partition.key, "oldest": ts, "latest": ts, "inclusive": "true", "limit": 10}
        try:
            data = await _call(api, "conversations.replies", ts=thread, **at)
        except Gone:
            is_gone = await _newest(api, partition, thread) is not None
        else:
            there = {row["ts"] for row in data["messages"]}
            is_gone = thread in there and ts not in there and _next(data) is None
        if is_gone:
            gone.append(record.external_id)
    return gone


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _channel_name(row: JSON) -> str:
    return f"#{row['name']}" if row.get("name") else "Direct message"


def _shown(found: re.Match[str]) -> str:
    """What stands for a piece of markup: people and channels have their sign whether they come with a name or not."""
    target, label = found[1], found[2]
    if target[0] in "@#":
        return target[0] + (label or target[1:]).removeprefix(target[0])
    if target[0] == "!" and "^" not in target:  # <!here>, and no date or group, which come with what is shown for them
        return f"@{target[1:]}"
    return label or re.sub(r"^(?:mailto:|![a-z]+\^)", "", target)


def _plain(text: str) -> str:
    """Slack's markup as a person reads it."""
    return html.unescape(_MARKUP.sub(_shown, text))


def _text(row: JSON) -> str:
    """What a message says. Those of apps often say it in attachments or blocks only; beside a text, these are what links unfold to."""
    if row.get("text"):
        return str(row["text"])
    parts = [*_texts(row.get("blocks"))]
    for attached in row.get("attachments") or ():
        said = [attached.get(name) for name in ("pretext", "title", "text")]
        said = [*filter(None, said), *_texts(attached.get("blocks"))] or [attached.get("fallback") or ""]
        parts += said
    return "\n".join(parts)


def _texts(blocks: Any) -> Iterator[str]:
    """The texts of blocks, in order, and the people whom they name."""
    stack = [blocks]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, dict):
            if node.get("type") == "user" and node.get("user_id"):
                yield f"<@{node['user_id']}>"
            if isinstance(node.get("text"), str):
                yield node["text"]
            stack.extend(node.get(name) for name in ("elements", "fields", "text"))


def _mentions(text: str, context: Context) -> Iterator[str]:
    found: list[str] = []
    if "<" in text:
        found = context.keys("user", *_USER.findall(text)) + context.keys("channel", *_CHANNEL.findall(text))
    links = (f"{channel}:{seconds}.{rest}" for channel, seconds, rest in _PERMALINK.findall(text))
    yield from [*found, *context.keys("message", *links)][:MOST_MENTIONS]
    yield from mentioned_emails(_plain(text))


def _author(row: JSON, context: Context) -> Entity | None:
    """The user, where there is one: beside a person whose token an app posts by, and beside an app's own user, the app is told too."""
    if row.get("user") and row.get("subtype") != "bot_message":
        profile = row.get("user_profile") or {}
        name = profile.get("real_name") or profile.get("name") or row["user"]
        return Entity("person", context.key("user", row["user"]), name)
    if row.get("bot_id"):
        name = (row.get("bot_profile") or {}).get("name") or row.get("username") or row["bot_id"]
        return Entity("bot", context.key("bot", row["bot_id"]), name)
    return None


def _file(row: JSON, context: Context, known: JSON | None = None) -> Entity:
    name = row.get("title") or row.get("name") or row["id"]
    return Entity("document", context.key("file", row["id"]), name, known)


def _extract_message(row: JSON, context: Context) -> Graph:
    channel, ts, text, subtype = context.partition, row["ts"], _text(row), row.get("subtype") or ""
    known = facts(row, "subtype", deleted=subtype == "tombstone")
    if channel.facts.get("url"):
        known["url"] = f"{channel.facts['url']}archives/{channel.key}/p{ts.replace('.', '')}"
    if row.get("edited"):
        known["edited_at"] = _time(row["edited"]["ts"]).isoformat()
    kind, key = "event" if _EVENTS.match(subtype) else "message", context.key("message", f"{channel.key}:{ts}")
    said = Graph(Entity(kind, key, headline(_plain(text), "(no text)"), known))
    said.to("part_of", Entity("channel", context.key("channel", channel.key), channel.label or channel.key))
    said.by("authored", _author(row, context))
    if row.get("thread_ts"):
        said.refer("replied_to", [context.key("message", f"{channel.key}:{row['thread_ts']}")])
    attached = (one for one in row.get("files") or () if one.get("id") and one.get("mode") != "tombstone")
    said.by("attached_to", *(_file(one, context) for one in attached))
    said.refer("mentions", _mentions(text, context))
    return said


def _extract_channel(row: JSON, context: Context) -> Graph:
    known = {name: row.get(f"is_{name}") for name in ("archived", "private")}
    known |= {name: (row.get(name) or {}).get("value") or None for name in ("topic", "purpose")}
    said = Graph(Entity("channel", context.key("channel", row["id"]), _channel_name(row), known))
    said.referred("authored", context.keys("user", row.get("creator")))
    said.referred("member_of", context.keys("user", row.get("user") if row.get("is_im") else None))
    return said


def _extract_members(row: JSON, context: Context) -> Graph:
    name = context.partition.label or row["channel"]
    said = Graph(Entity("channel", context.key("channel", row["channel"]), name, {}))
    said.by("member_of", *(Entity("person", context.key("user", user), user) for user in row["members"]))
    return said


def _extract_user(row: JSON, context: Context) -> Graph:
    own, profile = context.key("user", row["id"]), row.get("profile") or {}
    name = profile.get("real_name") or row.get("real_name") or row.get("name") or row["id"]
    known = facts(profile, "title", "email", deleted=row.get("deleted"))
    if row.get("is_bot") or row["id"] == "USLACKBOT":
        return Graph(Entity("bot", own, name, known, tuple(context.keys("bot", profile.get("bot_id")))))
    # An address that nobody has confirmed proves nothing.
    return Graph(person(own, name, profile.get("email") if row.get("is_email_confirmed", True) else None, known))


def _extract_file(row: JSON, context: Context) -> Graph:
    known = facts(row, "size", url=row.get("permalink"), type=row.get("mimetype") or row.get("filetype"))
    said = Graph(_file(row, context, known))
    said.referred("authored", context.keys("user", row.get("user")))
    said.refer("part_of", context.keys("channel", *_places(row)))
    return said


def _places(row: JSON) -> list[str]:
    """The channels that a file was shared in."""
    return [one for place in ("channels", "groups", "ims") for one in row.get(place) or ()]


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
        error = answer.get("error") or "unknown_error"
        return {"error": "temporarily_unavailable" if error in (*_PASSING, *_SLOWER) else error}
    token = answer.get("authed_user") or {}
    token = token if token.get("access_token") else answer
    return {**token, "scope": [scope for scope in str(token.get("scope") or "").split(",") if scope]}


async def _revoke(grant: Revocation) -> None:
    await grant.api.request("POST", "/api/auth.revoke", headers={"Authorization": f"Bearer {grant.access_token}"})


def _stream(
    name: str, label: str, window: WindowKind, fetch: Fetch, extract: Extract, needs: tuple[str, ...], **more: Any
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
        _stream(
            "users", "People", WindowKind.SNAPSHOT, listing(_users, _UPDATED), _extract_user,
            ("users:read", "users:read.email"), page_size=200, record=_UPDATED,
        ),
        _stream(
            "channels", "Channels", WindowKind.SNAPSHOT, listing(_channels, _CHANGED), _extract_channel,
            ("channels:read", "groups:read"), page_size=200, names_partitions=True, record=_CHANGED,
        ),
        _stream(
            "members", "Channel members", WindowKind.SNAPSHOT, _fetch_members, _extract_members,
            ("channels:read", "groups:read",
        ),
            partitioned=True, page_size=200),
        _stream(
            "messages", "Messages", WindowKind.EXACT, _fetch_messages, _extract_message, _HISTORY, partitioned=True,
            page_size=999, clock=Clock.CREATED, gone=_gone_messages,
        ),
        # Read in one go: a thread's replies may come long after what they reply to.
        _stream(
            "replies", "Thread replies", WindowKind.SCAN, _fetch_replies, _extract_message, _HISTORY, partitioned=True,
            page_size=10, clock=Clock.CREATED, gone=_gone_replies,
        ),
        _stream(
            "files", "Files", WindowKind.EXACT, pages(_files, _CREATED), _extract_file, ("files:read",),
            count=_count_files, clock=Clock.CREATED, parts_of=_places, record=_CREATED,
        ),
    ),
)  # fmt: skip
