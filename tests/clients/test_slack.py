"""slack_sdk, as others wrote it, against Slack's stand-in."""

from __future__ import annotations

from typing import Any

import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.oauth.installation_store import Installation
from slack_sdk.oauth.token_rotation import TokenRotator

from integrations.sandbox.slack import Slack
from integrations.sandbox.tokens import Tokens


@pytest.fixture
def client(sandbox: Any) -> WebClient:
    return WebClient("xoxp-sandbox", base_url=f"{sandbox.root}/slack/api/")


def every(pages: Any, name: str) -> list[Any]:
    return [row for page in pages for row in page[name]]


def test_it_says_whose_the_token_is(client: WebClient):
    who = client.auth_test()
    assert (who["team_id"], who["team"]) == ("T0SBNORTH", "Northwind Traders")
    headers = {name.lower(): value for name, value in who.headers.items()}
    assert "channels:history" in headers["x-oauth-scopes"].split(",")


def test_it_walks_all_pages_of_people_channels_and_members(client: WebClient, sandbox: Any):
    truth = sandbox.truth("slack")
    people = every(client.users_list(limit=5), "members")
    channels = every(client.conversations_list(limit=2, types="public_channel,private_channel"), "channels")
    assert len({row["id"] for row in people}) == len(people) == truth["users"]
    assert len({row["id"] for row in channels}) == len(channels) == truth["channels"]
    assert all(row["is_private"] for row in every(client.conversations_list(types="private_channel"), "channels"))
    members = every(client.conversations_members(channel=channels[0]["id"], limit=3), "members")
    assert set(members) < {row["id"] for row in people}
    assert len(members) == channels[0]["num_members"]


def test_it_reads_the_history_of_every_channel_newest_first_and_its_threads(client: WebClient, sandbox: Any):
    truth = sandbox.truth("slack")
    messages = replies = 0
    for channel in every(client.conversations_list(types="public_channel,private_channel"), "channels"):
        rows = every(client.conversations_history(channel=channel["id"], limit=50), "messages")
        assert [row["ts"] for row in rows] == sorted((row["ts"] for row in rows), reverse=True)
        messages += len(rows)
        for parent in (row for row in rows if row.get("reply_count")):
            thread = client.conversations_replies(channel=channel["id"], ts=parent["ts"])["messages"]
            assert thread[0]["ts"] == thread[0]["thread_ts"] == parent["ts"]
            assert len(thread) == 1 + parent["reply_count"]
            assert thread[-1]["ts"] == parent["latest_reply"]
            replies += len(thread) - 1
    assert (messages, replies) == (truth["messages"], truth["replies"])


def test_bounds_are_left_out_unless_asked_for(client: WebClient):
    channel = client.conversations_list()["channels"][0]["id"]
    newest, *_, oldest = client.conversations_history(channel=channel, limit=5)["messages"]
    span = {"channel": channel, "oldest": oldest["ts"], "latest": newest["ts"]}
    assert len(client.conversations_history(**span)["messages"]) == 3
    assert len(client.conversations_history(**span, inclusive=True)["messages"]) == 5


def test_it_pages_through_files_by_number(client: WebClient, sandbox: Any):
    first = client.files_list(count=7)
    paging = first["paging"]
    assert paging["total"] == sandbox.truth("slack")["files"] > 7
    rows = [row for page in range(1, paging["pages"] + 1) for row in client.files_list(count=7, page=page)["files"]]
    assert len({row["id"] for row in rows}) == paging["total"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.conversations_history(channel="C0NOWHERE"), "channel_not_found"),
        (lambda client: client.users_list(cursor="bm9uc2Vuc2U="), "invalid_cursor"),
        (lambda client: client.conversations_list(types="im"), "missing_scope"),
        (lambda client: client.chat_postMessage(channel="C1", text="no"), "unknown_method"),
    ],
)
def test_what_is_wrong_comes_in_slacks_words(client: WebClient, call: Any, error: str):
    with pytest.raises(SlackApiError) as caught:
        call(client)
    assert caught.value.response["error"] == error
    assert caught.value.response.status_code == 200


def test_a_limit_is_told_with_its_end(client: WebClient, sandbox: Any):
    sandbox.control(rate_limit_every=1, retry_after=9)
    with pytest.raises(SlackApiError) as caught:
        client.users_list()
    assert (caught.value.response.status_code, caught.value.response.headers["Retry-After"]) == (429, "9")
    assert caught.value.response["error"] == "ratelimited"


def test_a_token_can_be_rotated_once_and_taken_back(client: WebClient, sandbox: Any):
    access, refresh = (
        Tokens().make(prefix, "slack", "T0SBNORTH", kind, "rotated")
        for prefix, kind in ((Slack.prefix, "access"), (Slack.refresh_prefix, "refresh"))
    )
    rotator = TokenRotator(client_id="sandbox-slack", client_secret="sandbox-secret", client=client)
    old = Installation(user_id="U1", user_token=access, user_refresh_token=refresh, user_token_expires_in=1)
    new = rotator.perform_user_token_rotation(installation=old)
    assert new is not None
    assert (new.user_token, new.user_refresh_token) != (access, refresh)
    with pytest.raises(SlackApiError) as caught:
        client.auth_test(token=access)
    assert caught.value.response["error"] == "token_expired"
    assert client.auth_test(token=new.user_token)["ok"]
    assert client.auth_revoke(token=new.user_token)["revoked"]
    with pytest.raises(SlackApiError) as caught:
        client.auth_test(token=new.user_token)
    assert caught.value.response["error"] == "token_revoked"
