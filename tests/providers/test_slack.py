"""What only Slack has: errors with status 200, times with six decimals, threads, its own markup."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from historical_sync.course import IDLE_PAGES
from historical_sync.extraction import Ids, graph_rows, record_rows
from historical_sync.meter import Meter
from integrations.errors import AccessDenied, CursorExpired, ReauthRequired, RequestRejected, Throttled, Unavailable
from integrations.http import Api, Reply
from integrations.providers import slack
from integrations.providers.base import WHOLE, Context, Page, Partition, Record, Window
from integrations.providers.slack import SLACK
from integrations.providers.wire import EPOCH
from tests.contract.stage import ALL, Stage, read_on_course, staged
from tests.senders import answering

NS = "slack@T1"
GENERAL = Partition("C1", "#general", {"url": "https://acme.slack.com/", "created": 1735689600})
TS = "1735812345.000200"


def reply(error: str, status: int = 200, **more: Any) -> Reply:
    return Reply(status, {}, {"ok": False, "error": error, **more}, "", "")


def message(**row: Any) -> Any:
    return slack._extract_message(
        {"type": "message", "ts": TS, "user": "U1", "text": "Hi", **row}, Context(NS, GENERAL)
    )


def said(graph: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("token_revoked", ReauthRequired),
        ("token_expired", ReauthRequired),
        ("account_inactive", ReauthRequired),
        ("invalid_auth", ReauthRequired),
        ("missing_scope", AccessDenied),
        ("not_in_channel", AccessDenied),
        ("channel_not_found", AccessDenied),
        ("invalid_cursor", CursorExpired),
        ("ratelimited", Throttled),
        ("internal_error", Unavailable),
        ("team_added_to_org", Unavailable),
        ("org_login_required", Unavailable),
        ("fetch_members_failed", Unavailable),
        ("invalid_arguments", RequestRejected),
        ("something_new", RequestRejected),
    ],
)
def test_an_error_is_read_from_the_body_not_the_status(error: str, kind: type[Exception]):
    found = SLACK.classify(reply(error))
    assert type(found) is kind
    assert "Slack" in str(found)


def test_a_missing_scope_is_named():
    assert "channels:history" in str(SLACK.classify(reply("missing_scope", needed="channels:history")))


def test_only_an_expired_token_is_worth_a_refresh():
    assert SLACK.expired(reply("token_expired"))
    assert not SLACK.expired(reply("token_revoked"))
    assert not SLACK.expired(Reply(200, {}, {"ok": True}, "", ""))


def test_a_limit_waits_as_long_as_it_says_or_a_minute():
    named = Reply(429, httpx2.Headers({"Retry-After": "30"}), {"ok": False, "error": "ratelimited"}, "", "")
    for found, seconds in ((SLACK.classify(named), 30), (SLACK.classify(Reply(429, {}, None, "", "")), 60)):
        assert isinstance(found, Throttled)
        assert found.retry_at is not None
        assert abs(found.retry_at - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=20)


@pytest.mark.parametrize("text", ["1735812345.000200", "1735812345.999999", "1735812345.000000"])
def test_a_ts_survives_to_its_last_digit(text: str):
    assert slack._ts(slack._time(text)) == text


def test_seconds_and_short_fractions_are_times_too():
    assert slack._time(1735812345) == slack._time("1735812345.0") == datetime(2025, 1, 2, 10, 5, 45, tzinfo=UTC)


def test_mentions_of_people_channels_messages_and_addresses_are_found():
    text = (
        "<@U2> and <@W3|jane> see <#C9|support>, <mailto:Jane@Acme.com|Jane@Acme.com> and "
        "<https://acme.slack.com/archives/C9/p1735812000000100|this>"
    )
    mentions = {target for kind, _, target in said(message(text=text)) if kind == "mentions"}
    assert mentions == {
        f"{NS}:user:U2",
        f"{NS}:user:W3",
        f"{NS}:channel:C9",
        f"{NS}:message:C9:1735812000.000100",
        "person:email:jane@acme.com",
    }


@pytest.mark.parametrize("piece", ["<@U1|", "<#C1|", "<a|", "<", "<@U1"])
def test_a_message_that_an_app_may_post_takes_no_worker_from_the_others(piece: str):
    began = time.process_time()
    said(message(text=piece * (40_000 // len(piece))))
    assert time.process_time() - began < 1, "seconds, not the eight that looking for each one's end takes"


def test_a_message_reads_as_people_see_it():
    own = message(
        text="<!here> 1 &lt; 2 &amp; <https://acme.com/x|the plan>\nmore", edited={"user": "U1", "ts": TS}
    ).entities[0]
    assert own.name == "@here 1 < 2 & the plan"
    assert own.properties["url"] == "https://acme.slack.com/archives/C1/p1735812345000200"
    assert own.properties["edited_at"].startswith("2025-01-02T10:05:45")


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("<!channel>", "@channel"),
        ("<!everyone|everyone>", "@everyone"),
        ("<!here|@here>", "@here"),
        ("<!subteam^S1|@support>", "@support"),
        ("<!date^1392734382^{date_num}|2014-02-18>", "2014-02-18"),
        ("<#C9|support>", "#support"),
        ("<#C9|>", "#C9"),
        ("<@W3|jane>", "@jane"),
        ("<@U2>", "@U2"),
        ("<mailto:jane@acme.com|Jane>", "Jane"),
        ("<mailto:jane@acme.com>", "jane@acme.com"),
        ("<https://acme.com/#x>", "https://acme.com/#x"),
    ],
)
def test_who_and_what_is_addressed_has_the_sign_that_slack_shows(markup: str, shown: str):
    assert message(text=f"{markup} it is").entities[0].name == f"{shown} it is"


def test_a_reply_points_to_what_began_its_thread_and_a_parent_to_nothing():
    parent = "1735800000.000100"
    assert ("replied_to", f"{NS}:message:C1:{TS}", f"{NS}:message:C1:{parent}") in said(message(thread_ts=parent))
    assert not any(kind == "replied_to" for kind, *_ in said(message(thread_ts=TS, reply_count=2)))


def test_bots_joins_and_tombstones_are_told_apart_from_what_people_say():
    bot = message(bot_id="B1", username="Deploys", user=None, subtype="bot_message")
    assert ("authored", f"{NS}:bot:B1", f"{NS}:message:C1:{TS}") in said(bot)
    assert message(subtype="channel_join").entities[0].kind == "event"
    assert message(subtype="thread_broadcast").entities[0].kind == "message"
    gone = message(subtype="tombstone", text=None)
    assert gone.entities[0].properties["deleted"] is True
    assert gone.entities[0].name == "(no text)"


def test_what_an_app_posts_for_somebody_is_theirs():
    """Slack names the app beside whoever posted by it: the person whose token it used, or the app's own user."""
    found = message(user="U1", bot_id="B7", app_id="A1", bot_profile={"id": "B7", "name": "Front desk"})
    assert [text for text in said(found) if text[0] == "authored"] == [
        ("authored", f"{NS}:user:U1", f"{NS}:message:C1:{TS}")
    ]
    assert "Front desk" not in {entity.name for entity in found.entities}
    classic = message(user="U1", bot_id="B7", subtype="bot_message", username="Alerts")
    assert ("authored", f"{NS}:bot:B7", f"{NS}:message:C1:{TS}") in said(classic)


async def test_what_colleagues_tell_of_themselves_beside_their_work_is_not_kept():
    """Slack sends all of a profile (its reference, users.list)."""
    users = SLACK.stream("users")
    async with staged("slack") as stage:
        sent = (await stage.api().get("/api/users.list")).data["members"][0]["profile"]
        assert {"phone", "skype", "pronouns", "start_date", "status_text", "fields"} <= sent.keys()
        found = await stage.read(users)
    kept = {name for record, _ in found.rows.values() for name in record.payload["profile"]}
    assert kept == {"real_name", "display_name", "email", "title", "bot_id"}
    own = users.extract({"id": "U1", "profile": {**sent, "title": "Engineer"}}, Context(NS)).entities[0]
    assert own.properties == {"title": "Engineer", "email": sent["email"]}


def test_a_person_is_known_by_a_confirmed_address_only():
    row = {"id": "U1", "name": "jane", "profile": {"real_name": "Jane", "email": "Jane@Acme.com"}}
    own = slack._extract_user({**row, "is_email_confirmed": True}, Context(NS)).entities[0]
    assert (own.key, own.aliases) == ("person:email:jane@acme.com", (f"{NS}:user:U1",))
    assert slack._extract_user({**row, "is_email_confirmed": False}, Context(NS)).entities[0].key == f"{NS}:user:U1"
    bot = slack._extract_user({"id": "U2", "is_bot": True, "profile": {"bot_id": "B1"}}, Context(NS)).entities[0]
    assert (bot.kind, bot.aliases) == ("bot", (f"{NS}:bot:B1",))


async def test_a_bot_is_asked_only_for_channels_it_is_in_and_a_token_only_for_what_it_may_list():
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        if request.url.path.endswith("auth.test"):
            return httpx2.Response(200, json={"ok": True, "bot_id": "B1", "url": "https://acme.slack.com/"})
        rows = [{"id": "C1", "name": "in", "is_member": True}, {"id": "C2", "name": "out", "is_member": False}]
        return httpx2.Response(200, json={"ok": True, "channels": rows, "response_metadata": {"next_cursor": ""}})

    api = Api(SLACK, "https://slack.com", answering(answer), "xoxb-1", facts={"scopes": ["channels:read", "im:read"]})
    assert [partition.key for partition in await slack._partitions(api)] == ["C1"]
    assert dict(asked[1].url.params)["types"] == "public_channel,im"
    assert dict(asked[1].url.params)["limit"] == "999", "few requests a minute are allowed"


async def test_a_page_may_be_empty_before_the_end():
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"ok": True, "messages": [], "response_metadata": {"next_cursor": "on"}})

    window = Window(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC))
    api = Api(SLACK, "https://slack.com", answering(answer), "xoxp-1")
    assert (await slack._fetch_messages(api, GENERAL, window, None)).next_cursor == {"cursor": "on"}


@pytest.mark.parametrize("busy", [True, False])
async def test_many_threads_in_a_row_without_a_reply_of_the_window_do_not_end_the_reading(busy: bool):
    """busy: answered after it; otherwise nobody answered at all, so only pages of history are read, of one message each."""
    span = Window(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC))
    first, count = span.until.timestamp() - 10_000, IDLE_PAGES + 100

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("conversations.replies"):
            return httpx2.Response(200, json={"ok": True, "messages": [{"ts": request.url.params["ts"], "user": "U1"}]})
        at = int(request.url.params.get("cursor") or 0)
        stamps = [f"{first - number:.6f}" for number in range(at, min(at + (100 if busy else 1), count))]
        answered = {"reply_count": 1, "latest_reply": f"{span.until.timestamp() + 60:.6f}"} if busy else {}
        rows = [{"ts": ts, "thread_ts": ts, "user": "U1", "text": "?", **answered} for ts in stamps]
        more = {"next_cursor": str(at + len(rows))} if at + len(rows) < count else {}
        return httpx2.Response(200, json={"ok": True, "messages": rows, "response_metadata": more})

    api = Api(SLACK, "https://slack.com/api", answering(handle), "token")
    pages = await read_on_course(api, SLACK.stream("replies"), GENERAL, span)
    assert not any(page.records for page in pages)
    assert len(pages) >= count


async def test_replies_to_what_was_said_before_the_window_are_found():
    stage = Stage("slack")
    async with stage.client:
        await stage.use("T0SBNORTH")
        own = stage.stand_in.workspaces["T0SBNORTH"]
        late = next(r for r in own.replies if r.at - own.messages[r.parent] > 3600 * 10**6)
        since = EPOCH + timedelta(microseconds=own.messages[late.parent] + 1)
        window = Window(since, since + timedelta(days=6))
        found = await stage.read(SLACK.stream("replies"), window)
        assert found.ids == stage.truth(SLACK.stream("replies"), window)
        assert any(
            record.payload["thread_ts"] == slack._ts(since - timedelta(microseconds=1))
            for record, _ in found.rows.values()
        )


async def test_a_thread_that_is_gone_meanwhile_ends_nothing():
    stage = Stage("slack")
    async with stage.client:
        await stage.use("T0SBNORTH")
        partition = (await stage.partitions(SLACK.stream("replies")))[0]
        window = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
        cursor = {"history": None, "threads": ["1.000001", "2.000002"]}
        page = await SLACK.stream("replies").fetch(stage.api(), partition, window, cursor)
        assert (list(page.records), page.next_cursor) == ([], {"history": None, "threads": ["2.000002"]})


async def test_files_that_are_deleted_while_the_others_are_read_hide_none():
    """Pages of files have numbers only: what comes after a deleted one moves forward."""
    stage, files = Stage("slack"), SLACK.stream("files")
    async with stage.client:
        await stage.use("T0SBNORTH")
        await stage.control(page_size=3)
        page = await files.fetch(stage.api(), WHOLE, ALL, None)
        rows = {record.external_id for record in page.records}
        while page.next_cursor:
            await stage.control(delete_every=4)
            page = await files.fetch(stage.api(), WHOLE, ALL, page.next_cursor)
            rows |= {record.external_id for record in page.records}
        assert rows >= stage.truth(files, ALL)
        assert len(stage.truth(files, ALL)) > 6, "no pages are left"


async def test_more_files_than_slack_lists_by_number_are_asked_for_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slack, "MOST_PAGES", 2)
    stage, files = Stage("slack"), SLACK.stream("files")
    async with stage.client:
        await stage.use("T0SBNORTH")
        await stage.control(page_size=3)
        found = await stage.read(files)
        assert found.splits
        assert found.ids == stage.truth(files, ALL)


def test_a_narrowed_connection_brings_the_files_of_its_channels_only():
    now = datetime(2026, 3, 2, tzinfo=UTC)
    claim: Any = SimpleNamespace(
        records_seen=0, pages=0, position=None, estimate=None, window=Window(now - timedelta(days=1), now)
    )
    claim.lease = SimpleNamespace(connection_bytes=bytes(16), stream="files")
    places = {"F1": {"channels": ["C1"]}, "F2": {"channels": ["C2"], "groups": ["G1"]}, "F3": {"ims": ["D1"]}, "F4": {}}
    files = [Record(key, now - timedelta(hours=1), {"id": key, **place}) for key, place in places.items()]

    def brought(only: list[str] | None) -> list[str]:
        return [row.external_id for row in Meter(SLACK.stream("files"), claim, only).keep(Page(files, None)).rows]

    assert brought(["C1", "G1"]) == ["F1", "F2"]
    assert brought(["C3"]) == []
    assert brought(None) == ["F1", "F2", "F3", "F4"]


def test_a_time_beyond_all_time_keeps_only_its_own_row_out():
    good = {"ts": TS, "user": "U1", "text": "Hi"}
    bad = {**good, "ts": "1735812345.000300", "edited": {"ts": f"{10**20}.000000"}}
    found, _ = record_rows(
        [Record(f"C1:{row['ts']}", datetime(2025, 1, 2, tzinfo=UTC), row) for row in (good, bad)], bytes(16), "messages"
    )
    told = graph_rows([row[:3] for row in found], slack._extract_message, Context(NS, GENERAL), Ids(bytes(16)))
    assert [key for key, _ in told.rejected] == [found[1].id]
    assert len(told.said) == 1


def test_what_an_app_says_in_attachments_or_blocks_only_is_its_text():
    """Alerts and the like come with an empty text."""
    alert = {"bot_id": "B1", "user": None, "text": "", "subtype": "bot_message"}
    shown = {
        "fallback": "[FIRING] Disk",
        "pretext": "Alert for <@U9>",
        "title": "Disk full",
        "text": "Ask ana@acme.test",
    }
    graph = message(**alert, attachments=[shown])
    assert graph.entities[0].name.startswith("Alert for")
    assert {("mentions", "person:email:ana@acme.test"), ("mentions", f"{NS}:user:U9")} <= {
        (kind, end) for kind, end in zip(graph.kinds, graph.ends, strict=True)
    }
    assert message(**alert, attachments=[{"fallback": "[FIRING] Disk"}]).entities[0].name == "[FIRING] Disk"
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": "Deploy failed"}},
        {"type": "section", "fields": [{"type": "mrkdwn", "text": "*By* <@U8>"}]},
        {
            "type": "rich_text",
            "elements": [{"type": "rich_text_section", "elements": [{"type": "user", "user_id": "U7"}]}],
        },
    ]
    graph = message(**alert, blocks=blocks)
    assert graph.entities[0].name == "Deploy failed"
    assert {f"{NS}:user:U8", f"{NS}:user:U7"} <= set(graph.ends)


def test_what_a_link_unfolds_to_is_not_what_the_person_said():
    graph = message(text="See https://acme.test", attachments=[{"title": "Acme", "text": "Mail us: info@acme.test"}])
    assert graph.entities[0].name == "See https://acme.test"
    assert "person:email:info@acme.test" not in graph.ends


def test_a_channel_says_what_it_is_for_who_made_it_and_with_whom_it_is():
    row = {"id": "C1", "name": "general", "creator": "U1", "is_private": False, "is_archived": True,
           "topic": {"value": "News"}, "purpose": {"value": ""}}  # fmt: skip
    channel = slack._extract_channel(row, Context(NS))
    own = channel.entities[0]
    assert (own.kind, own.key, own.name) == ("channel", f"{NS}:channel:C1", "#general")
    assert own.properties == {"archived": True, "private": False, "topic": "News", "purpose": None}
    assert said(channel) == {("authored", f"{NS}:user:U1", f"{NS}:channel:C1")}
    direct = slack._extract_channel({"id": "D1", "is_im": True, "user": "U2"}, Context(NS))
    assert direct.entities[0].name == "Direct message"
    assert said(direct) == {("member_of", f"{NS}:user:U2", f"{NS}:channel:D1")}
    members = slack._extract_members({"channel": "C1", "members": ["U1", "U2"]}, Context(NS, GENERAL))
    assert members.entities[0].name == "#general"
    assert said(members) == {("member_of", f"{NS}:user:{user}", f"{NS}:channel:C1") for user in ("U1", "U2")}


def test_files_are_attached_to_what_they_came_with_but_not_those_that_are_gone():
    files = [{"id": "F1", "title": "Plan"}, {"id": "F2", "mode": "tombstone"}, {"mode": "hidden_by_limit"}]
    graph = message(files=files)
    assert [(e.kind, e.name) for e in graph.entities if ":file:" in e.key] == [("document", "Plan")]
    assert {one for one in said(graph) if one[0] == "attached_to"} == {
        ("attached_to", f"{NS}:file:F1", f"{NS}:message:C1:{TS}")
    }


# -- what is gone -------------------------------------------------------------------------------------------------------------


async def gone(stream: str, row: dict[str, Any], following: str = "", **answers: Any) -> bool:
    """Whether the message is, where Slack answers so. answers: method -> timestamps of the messages that come, or an error. following: the
    page of the thread that comes next."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        found = answers[request.url.path.rpartition(".")[2]]
        asked, told = request.url.params, dict[str, Any]()
        if isinstance(found, str):
            told = {"ok": False, "error": found}
        else:
            told["messages"] = [{"ts": ts} for ts in found if "ts" in asked or ts <= asked["latest"]]
            told["response_metadata"] = {"next_cursor": following if "ts" in asked else ""}
        return httpx2.Response(200, json={"ok": True, **told})

    record = Record(f"C1:{row['ts']}", slack._time(row["ts"]), row)
    find = SLACK.stream(stream).gone
    assert find is not None
    return list(await find(Api(SLACK, "https://slack.com", answering(answer)), GENERAL, [record])) == [
        record.external_id
    ]


@pytest.mark.parametrize(
    ("history", "is_gone"), [([TS], False), (["1735812345.000199"], True), ([], False)], ids=["there", "older", "none"]
)
async def test_a_message_is_gone_where_an_older_one_stands_in_its_place(history: list[str], is_gone: bool) -> None:
    """Where nothing that old is shown it may be hidden: who does not pay is shown some months only."""
    assert await gone("messages", {"ts": TS}, history=history) == is_gone


THREAD = "1735812000.000100"


@pytest.mark.parametrize(
    ("replies", "history", "is_gone"),
    [
        ([THREAD, TS], [], False),
        ([THREAD], [], True),
        ([], [], False),
        ("thread_not_found", ["1735811000.000100"], True),
        ("thread_not_found", [], False),
        ("thread_not_found", ["1735812100.000100"], False),
    ],
    ids=["there", "not in its thread", "no thread shown", "thread gone", "all gone or hidden", "thread gone or hidden"],
)
async def test_a_reply_is_gone_where_its_thread_is_shown_without_it(
    replies: Any, history: list[str], is_gone: bool
) -> None:
    assert await gone("replies", {"ts": TS, "thread_ts": THREAD}, replies=replies, history=history) == is_gone


async def test_a_reply_that_may_come_on_the_next_page_is_not_gone() -> None:
    """Only a page's cursor tells the end."""
    assert not await gone("replies", {"ts": TS, "thread_ts": THREAD}, following="more", replies=[THREAD])


@pytest.mark.parametrize("error", ["channel_not_found", "not_in_channel"])
async def test_of_a_channel_that_is_not_shown_nothing_is_known_to_be_gone(error: str) -> None:
    with pytest.raises(AccessDenied):
        await gone("messages", {"ts": TS}, history=error)
