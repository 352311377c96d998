"""The providers' stand-ins: what they promise to the code that can't tell them from the real ones."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx2
import pytest

from integrations.sandbox import make_app
from tests.conftest import PROJECT, free_port, stop, wait_for
from tests.senders import ByHttpx

NOW = datetime(2026, 3, 4, 12, 34, tzinfo=UTC)
BACK = "https://atom.test/back?kept=1"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
TOKENS = {"github": "/login/oauth/access_token", "salesforce": "/services/oauth2/token"}
AUTHORIZE = {"github": "/login/oauth/authorize", "salesforce": "/services/oauth2/authorize"}
SECOND = {"github": "contoso-labs", "salesforce": "00Dsb0000000002AAA"}
GITHUB = {"Authorization": "Bearer ghp_sandbox"}
SOQL = "/sandbox/salesforce/services/data/v67.0"
WEEKS = timedelta(days=90)


def client_of(app: Any, **more: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app, **more), base_url="http://host.test")


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(make_app(seed=3, records=900, now=NOW)) as client:
        yield client


# -- helpers --------------------------------------------------------------------------------------------------------------


def asked(provider: str, **changes: str) -> dict[str, str]:
    query = {
        "client_id": f"sandbox-{provider}",
        "redirect_uri": BACK,
        "response_type": "code",
        "state": "st&te",
        "scope": "repo user:email",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    return {name: value for name, value in {**query, **changes}.items() if value}


def location(reply: httpx2.Response) -> dict[str, str]:
    assert reply.status_code == 302, reply.text
    assert reply.headers["location"].startswith(BACK + "&")
    return dict(parse_qsl(urlsplit(reply.headers["location"]).query))


async def code_for(client: httpx2.AsyncClient, provider: str, account: str = "") -> str:
    page = await client.get(f"/sandbox/{provider}{AUTHORIZE[provider]}", params=asked(provider))
    assert page.status_code == 200
    shown = re.findall(r'value="([^"]+)"( checked)?> ', page.text)
    assert len(shown) >= 2
    assert [bool(checked) for _, checked in shown] == [True] + [False] * (len(shown) - 1)
    form = {"answer": "allow", "account": account or shown[0][0]}
    back = location(await client.post(f"/sandbox/{provider}{AUTHORIZE[provider]}", params=asked(provider), data=form))
    assert back["state"] == "st&te"
    return back["code"]


async def exchange(client: httpx2.AsyncClient, provider: str, **changes: str) -> httpx2.Response:
    form = {
        "grant_type": "authorization_code",
        "client_id": f"sandbox-{provider}",
        "client_secret": "sandbox-secret",
        "redirect_uri": BACK,
        "code_verifier": VERIFIER,
        **changes,
    }
    return await client.post(
        f"/sandbox/{provider}{TOKENS[provider]}", data=form, headers={"Accept": "application/json"}
    )


async def signed_in_to(client: httpx2.AsyncClient, provider: str, account: str = "") -> dict[str, Any]:
    reply = await exchange(client, provider, code=await code_for(client, provider, account))
    assert reply.status_code == 200
    return dict(reply.json())


def bearer(token: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {token['access_token']}"}


async def who(client: httpx2.AsyncClient, provider: str, headers: dict[str, str]) -> httpx2.Response:
    path = {"github": "/user", "salesforce": "/services/oauth2/userinfo"}[provider]
    return await client.get(f"/sandbox/{provider}{path}", headers=headers)


async def control(client: httpx2.AsyncClient, **settings: Any) -> dict[str, Any]:
    reply = await client.post("/sandbox/__control", json=settings)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def truth(client: httpx2.AsyncClient, provider: str, **query: str) -> dict[str, int]:
    reply = await client.get("/sandbox/__truth", params={"provider": provider, **query})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def walk(client: httpx2.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """All pages of a GitHub list, by its links."""
    rows: list[dict[str, Any]] = []
    reply = await client.get(f"/sandbox/github{path}", params={"per_page": 17, **query}, headers=GITHUB)
    while True:
        assert reply.status_code == 200, reply.text
        rows += reply.json()
        assert len(reply.json()) <= 100
        following = re.search(r'<([^>]+)>; rel="next"', reply.headers.get("link", ""))
        if following is None:
            return rows
        assert following[1].startswith("http://host.test/sandbox/github/")
        reply = await client.get(following[1], headers=GITHUB)


async def repositories(client: httpx2.AsyncClient) -> list[str]:
    return [row["full_name"] for row in await walk(client, "/user/repos")]


async def walk_all(client: httpx2.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """A list of every repository that has it."""
    rows = []
    for name in await repositories(client):
        first = await client.get(f"/sandbox/github/repos/{name}{path}", headers=GITHUB)
        if first.status_code not in (409, 410):
            rows += await walk(client, f"/repos/{name}{path}", **query)
    return rows


def at(value: str) -> datetime:
    return datetime.fromisoformat(value)


async def query(client: httpx2.AsyncClient, headers: dict[str, str], soql: str, way: str = "queryAll") -> Any:
    return await client.get(f"{SOQL}/{way}", params={"q": soql}, headers=headers)


async def select(client: httpx2.AsyncClient, headers: dict[str, str], soql: str) -> list[dict[str, Any]]:
    reply = await query(client, headers | {"Sforce-Query-Options": "batchSize=200"}, soql)
    rows: list[dict[str, Any]] = []
    while True:
        assert reply.status_code == 200, reply.text
        body = reply.json()
        rows += body["records"]
        if body["done"]:
            assert "nextRecordsUrl" not in body
            assert body["totalSize"] == len(rows)
            return rows
        assert len(body["records"]) == 200
        reply = await client.get(
            f"/sandbox/salesforce{body['nextRecordsUrl']}", headers=headers | {"Sforce-Query-Options": "batchSize=200"}
        )


# -- OAuth ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["github", "salesforce"])
async def test_a_code_becomes_a_token_of_the_account_chosen(client: httpx2.AsyncClient, provider: str) -> None:
    token = await signed_in_to(client, provider, SECOND[provider])
    me = (await who(client, provider, bearer(token))).json()
    assert SECOND[provider] in me.values()
    assert "expires_in" not in token
    if provider == "github":
        assert token["access_token"].startswith("gho_")
        assert "refresh_token" not in token
        assert token["scope"] == "repo"
    else:
        assert token["instance_url"] == "http://host.test/sandbox/salesforce"
        assert {"refresh_token", "id", "issued_at", "signature", "scope"} <= set(token)


async def test_github_answers_in_a_form_unless_json_is_asked_for(client: httpx2.AsyncClient) -> None:
    form = {"client_id": "sandbox-github", "client_secret": "sandbox-secret", "code": "no"}
    reply = await client.post("/sandbox/github/login/oauth/access_token", data=form)
    assert reply.status_code == 200
    assert parse_qs(reply.text)["error"] == ["bad_verification_code"]


@pytest.mark.parametrize("provider", ["github", "salesforce"])
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_verifier": "w" * 64}, {"bad_verification_code", "invalid_grant"}),
        ({"code_verifier": ""}, {"bad_verification_code", "invalid_grant"}),
        ({"redirect_uri": "https://atom.test/other"}, {"bad_verification_code", "invalid_grant"}),
        ({"code": "nonsense"}, {"bad_verification_code", "invalid_grant"}),
        ({"client_secret": "wrong"}, {"incorrect_client_credentials", "invalid_client"}),
        ({"client_id": "wrong"}, {"incorrect_client_credentials", "invalid_client_id"}),
    ],
)
async def test_a_wrong_exchange_is_refused_in_the_providers_way(
    client: httpx2.AsyncClient, provider: str, changes: dict[str, str], error: set[str]
) -> None:
    reply = await exchange(client, provider, **{"code": await code_for(client, provider), **changes})
    assert reply.status_code == (200 if provider == "github" else 400)
    assert reply.json()["error"] in error
    assert "access_token" not in reply.json()


@pytest.mark.parametrize("provider", ["github", "salesforce"])
async def test_a_code_serves_once(client: httpx2.AsyncClient, provider: str) -> None:
    code = await code_for(client, provider)
    assert "access_token" in (await exchange(client, provider, code=code)).json()
    assert "error" in (await exchange(client, provider, code=code)).json()


@pytest.mark.parametrize("provider", ["github", "salesforce"])
async def test_a_failed_exchange_uses_the_code_up(client: httpx2.AsyncClient, provider: str) -> None:
    code = await code_for(client, provider)
    await exchange(client, provider, code=code, code_verifier="w" * 64)
    assert "error" in (await exchange(client, provider, code=code)).json()


async def test_a_code_of_one_provider_is_none_of_the_other(client: httpx2.AsyncClient) -> None:
    assert "error" in (await exchange(client, "salesforce", code=await code_for(client, "github"))).json()


async def test_a_code_lives_ten_minutes(client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    code, began = await code_for(client, "github"), time.time()
    monkeypatch.setattr(time, "time", lambda: began + 601)
    assert (await exchange(client, "github", code=code)).json()["error"] == "bad_verification_code"


@pytest.mark.parametrize("provider", ["github", "salesforce"])
async def test_denial_goes_back_with_an_error(client: httpx2.AsyncClient, provider: str) -> None:
    path = f"/sandbox/{provider}{AUTHORIZE[provider]}"
    back = location(await client.post(path, params=asked(provider), data={"answer": "deny"}))
    assert (back["error"], back["state"]) == ("access_denied", "st&te")
    assert "code" not in back


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": ""}, "unsupported_response_type"),
        ({"state": ""}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
    ],
)
async def test_a_wrong_question_goes_back_with_an_error(
    client: httpx2.AsyncClient, changes: dict[str, str], error: str
) -> None:
    for call in (client.get, client.post):
        reply = await call("/sandbox/github/login/oauth/authorize", params=asked("github", **changes))
        assert location(reply)["error"] == error


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "someone"},
        {"redirect_uri": ""},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": "http://["},
        {"redirect_uri": "http://a.test;script-src *"},
        {"redirect_uri": "http://a.test/\r\nX-Evil: 1"},
        {"redirect_uri": "http://user@a.test/"},
        {"redirect_uri": "http://a.test/#part"},
    ],
)
async def test_nobody_is_sent_to_an_address_that_is_none(client: httpx2.AsyncClient, changes: dict[str, str]) -> None:
    for call in (client.get, client.post):
        reply = await call("/sandbox/github/login/oauth/authorize", params=asked("github", **changes))
        assert reply.status_code == 400
        assert "location" not in reply.headers


async def test_the_page_needs_no_script_and_keeps_what_it_is_told_as_text(client: httpx2.AsyncClient) -> None:
    page = await client.get(
        "/sandbox/github/login/oauth/authorize", params=asked("github", scope="repo <script>alert(1)</script>")
    )
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    style = await client.get("/sandbox/style.css")
    assert style.headers["content-type"] == "text/css"
    assert "prefers-color-scheme" in style.text


async def test_an_answer_must_be_one(client: httpx2.AsyncClient) -> None:
    path = "/sandbox/github/login/oauth/authorize"
    for form in ({}, {"answer": "allow"}, {"answer": "allow", "account": "x"}, {"answer": "perhaps"}):
        assert (await client.post(path, params=asked("github"), data=form)).status_code == 400
    assert (await client.put(path, params=asked("github"))).status_code == 405


# -- tokens ---------------------------------------------------------------------------------------------------------------


async def test_without_a_token_nothing_is_read(client: httpx2.AsyncClient) -> None:
    other = bearer(await signed_in_to(client, "salesforce"))
    for headers in ({}, {"Authorization": "Bearer gho_x"}, {"Authorization": "Bearer gho_ä".encode()}, other):
        reply = await client.get("/sandbox/github/user", headers=headers)
        assert (reply.status_code, reply.json()["message"]) == (401, "Bad credentials")
    for headers in ({}, {"Authorization": "Bearer 00Dx"}, GITHUB):
        reply = await client.get(f"{SOQL}/query", headers=headers)
        assert reply.status_code == 401
        assert reply.json() == [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]


@pytest.mark.parametrize("provider", ["github", "salesforce"])
async def test_tokens_outlive_the_process(client: httpx2.AsyncClient, provider: str) -> None:
    token = await signed_in_to(client, provider)
    async with client_of(make_app(records=60)) as later:
        assert (await who(later, provider, bearer(token))).status_code == 200


async def test_refreshing_ends_the_access_token_before(client: httpx2.AsyncClient) -> None:
    first = await signed_in_to(client, "salesforce")
    stranger = await signed_in_to(client, "salesforce")
    refreshing = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await exchange(client, "salesforce", **refreshing)).json()
    assert "refresh_token" not in second
    assert (await who(client, "salesforce", bearer(first))).status_code == 403
    assert (await who(client, "salesforce", bearer(second))).status_code == 200
    assert (await who(client, "salesforce", bearer(stranger))).status_code == 200
    third = (await exchange(client, "salesforce", **refreshing)).json()
    assert (await who(client, "salesforce", bearer(third))).status_code == 200


async def test_expiry_leaves_the_refresh_token(client: httpx2.AsyncClient) -> None:
    token = await signed_in_to(client, "salesforce")
    await control(client, expire="salesforce")
    assert (await who(client, "salesforce", bearer(token))).status_code == 403
    fresh = (
        await exchange(client, "salesforce", grant_type="refresh_token", refresh_token=token["refresh_token"])
    ).json()
    assert (await who(client, "salesforce", bearer(fresh))).status_code == 200


@pytest.mark.parametrize("provider", ["github", "salesforce"])
async def test_revoking_all_ends_what_was_issued_before(client: httpx2.AsyncClient, provider: str) -> None:
    token = await signed_in_to(client, provider)
    await control(client, revoke=provider)
    assert (await who(client, provider, bearer(token))).status_code == {"github": 401, "salesforce": 403}[provider]
    if provider == "salesforce":
        refreshing = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
        reply = await exchange(client, provider, **refreshing)
        assert (reply.status_code, reply.json()["error"]) == (400, "invalid_grant")
    assert (await who(client, provider, bearer(await signed_in_to(client, provider)))).status_code == 200


async def test_github_takes_a_grant_back(client: httpx2.AsyncClient) -> None:
    token, other = await signed_in_to(client, "github"), await signed_in_to(client, "github")
    path, body = "/sandbox/github/applications/sandbox-github/token", {"access_token": token["access_token"]}
    assert (await client.request("DELETE", path, json=body)).status_code == 404
    assert (await client.request("DELETE", path, json=body, auth=("sandbox-github", "no"))).status_code == 404
    auth = ("sandbox-github", "sandbox-secret")
    for bad in ([], {"access_token": 5}, {}):
        assert (await client.request("DELETE", path, json=bad, auth=auth)).status_code == 422
    assert (await client.request("DELETE", path, json=body, auth=auth)).status_code == 204
    assert (await who(client, "github", bearer(token))).status_code == 401
    assert (await who(client, "github", bearer(other))).status_code == 200


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_salesforce_takes_a_grant_back(client: httpx2.AsyncClient, kind: str) -> None:
    token = await signed_in_to(client, "salesforce")
    path = "/sandbox/salesforce/services/oauth2/revoke"
    assert (await client.post(path, data={"token": "none"})).status_code == 400
    assert (await client.post(path, data={"token": token[kind]})).status_code == 200
    assert (await who(client, "salesforce", bearer(token))).status_code == 403
    refreshing = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
    assert (await exchange(client, "salesforce", **refreshing)).json()["error"] == "invalid_grant"


# -- GitHub's lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "time"),
    [
        ("/issues", "issues", "updated_at"),
        ("/issues/comments", "comments", "updated_at"),
        ("/pulls/comments", "review_comments", "updated_at"),
    ],
)
async def test_lists_with_since_hold_what_is_true(client: httpx2.AsyncClient, path: str, name: str, time: str) -> None:
    since = (NOW - WEEKS).strftime("%Y-%m-%dT%H:%M:%SZ")
    for query in ({}, {"since": since}):
        rows = await walk_all(client, path, state="all", sort="updated", direction="asc", **query)
        assert len(rows) == (await truth(client, "github", **query))[name] > 0
        assert len({row["id"] for row in rows}) == len(rows)
        assert all(row[time] >= query.get("since", "") for row in rows)


async def test_every_row_of_a_list_is_in_the_order_asked_for(client: httpx2.AsyncClient) -> None:
    path = f"/repos/{(await repositories(client))[-1]}/issues"
    for sort, direction in (("updated", "asc"), ("updated", "desc"), ("created", "asc"), ("created", "desc")):
        rows = await walk(client, path, state="all", sort=sort, direction=direction)
        times = [row[f"{sort}_at"] for row in rows]
        assert times == sorted(times, reverse=direction == "desc")
    newest = await walk(client, path, state="all")
    assert [row["number"] for row in newest] == list(range(len(newest), 0, -1))


async def test_pulls_are_the_issues_that_are_pull_requests(client: httpx2.AsyncClient) -> None:
    pulls = await walk_all(client, "/pulls", state="all", sort="updated", direction="desc")
    issues = await walk_all(client, "/issues", state="all")
    assert len(pulls) == (await truth(client, "github"))["pull_requests"] > 0
    stubs = {row["pull_request"]["url"] for row in issues if "pull_request" in row}
    assert {row["url"] for row in pulls} == stubs
    assert 0 < len(stubs) < len(issues)
    assert all(row["head"]["ref"] and row["base"]["ref"] == "main" for row in pulls)
    assert not {row["id"] for row in pulls} & {row["id"] for row in issues}


async def test_commits_keep_both_ends_of_the_window(client: httpx2.AsyncClient) -> None:
    all_of_them = await walk_all(client, "/commits")
    assert len(all_of_them) == (await truth(client, "github"))["commits"] > 0
    assert len({row["sha"] for row in all_of_them}) == len(all_of_them)
    name = next(name for name in await repositories(client) if name.endswith("storefront"))
    rows = await walk(client, f"/repos/{name}/commits")
    times = [row["commit"]["committer"]["date"] for row in rows]
    assert times == sorted(times, reverse=True)
    late, early = times[10], times[40]
    inside = await walk(client, f"/repos/{name}/commits", since=early, until=late)
    assert [row["sha"] for row in inside] == [
        row["sha"] for row in rows if early <= row["commit"]["committer"]["date"] <= late
    ]


async def test_windows_of_truth_add_up(client: httpx2.AsyncClient) -> None:
    middle = (NOW - WEEKS).isoformat()
    for provider in ("github", "salesforce"):
        whole = await truth(client, provider)
        before, after = await truth(client, provider, until=middle), await truth(client, provider, since=middle)
        for timeless in ("repositories", "users"):
            whole.pop(timeless, None)
        assert all(before[name] + after[name] == count for name, count in whole.items())


async def test_state_filters(client: httpx2.AsyncClient) -> None:
    path = f"/repos/{(await repositories(client))[-1]}/issues"
    states = {state: await walk(client, path, state=state) for state in ("open", "closed", "all")}
    assert len(states["open"]) + len(states["closed"]) == len(states["all"])
    assert {row["state"] for row in states["open"]} == {"open"}
    assert all((row["closed_at"] is None) == (row["state"] == "open") for row in states["all"])
    assert await walk(client, path) == states["open"]


async def test_links_lead_through_the_pages(client: httpx2.AsyncClient) -> None:
    row = (await walk(client, "/user/repos"))[-1]
    path = f"/sandbox/github/repos/{row['full_name']}/pulls"
    query = {"state": "all", "per_page": "5", "page": "2"}
    link = (await client.get(path, params=query, headers=GITHUB)).headers["link"]
    found = dict(re.findall(r'<[^>]*[?&]page=(\d+)[^>]*>; rel="(\w+)"', link))
    named = {rel: int(page) for page, rel in found.items()}
    assert {"prev", "next", "last", "first"} <= set(re.findall(r'rel="(\w+)"', link))
    assert named["next"] == 3
    assert f"<http://host.test/sandbox/github/repositories/{row['id']}/pulls?" in link
    total = await client.get(path, params={"state": "all", "per_page": 1}, headers=GITHUB)
    last = re.search(r'[?&]page=(\d+)[^>]*>; rel="last"', total.headers["link"])
    assert last is not None
    assert int(last[1]) == len(await walk(client, f"/repos/{row['full_name']}/pulls", state="all"))
    issues = path.replace("/pulls", "/issues")
    link = (await client.get(issues, params={"state": "all", "per_page": 5}, headers=GITHUB)).headers["link"]
    assert re.findall(r'rel="(\w+)"', link) == ["next"], "lists by cursor know no last page"
    assert "after=" in link
    assert len((await client.get(path, params={"per_page": 500, "state": "all"}, headers=GITHUB)).json()) <= 100


async def test_the_search_counts_as_the_list_does(client: httpx2.AsyncClient) -> None:
    name = next(name for name in await repositories(client) if name.endswith("storefront"))
    rows = await walk(client, f"/repos/{name}/issues", state="all", sort="updated", direction="asc")
    low, high = rows[5]["updated_at"], rows[-5]["updated_at"]
    for kind in ("issue", "pr"):
        reply = await client.get(
            "/sandbox/github/search/issues",
            params={"q": f"repo:{name} is:{kind} updated:{low}..{high}", "per_page": 1},
            headers=GITHUB,
        )
        wanted = [row for row in rows if low <= row["updated_at"] <= high and ("pull_request" in row) == (kind == "pr")]
        assert reply.json()["total_count"] == len(wanted) > 0
    open_ones = await client.get(
        "/sandbox/github/search/issues", params={"q": f"repo:{name} is:pr is:open"}, headers=GITHUB
    )
    assert open_ones.json()["total_count"] == len(await walk(client, f"/repos/{name}/pulls", state="open"))


async def test_the_odd_repositories(client: httpx2.AsyncClient) -> None:
    async def get(path: str) -> httpx2.Response:
        return await client.get(f"/sandbox/github/repos/northwind-dev/{path}", headers=GITHUB)

    empty = await get("new-idea/commits")
    assert (empty.status_code, empty.json()["message"]) == (409, "Git Repository is empty.")
    assert (await get("legacy-docs/issues")).status_code == 410
    assert (await get("legacy-docs/issues/comments")).status_code == 410
    assert (await get("no-such")).status_code == 404
    assert (await get("no-such/issues")).status_code == 404
    # Another account's repository is none.
    strange = await client.get("/sandbox/github/repos/contoso-labs/storefront/issues", headers=GITHUB)
    assert strange.status_code == 404
    assert (await get("storefront/issues/1")).json()["number"] == 1


async def test_rows_are_as_odd_as_real_ones(client: httpx2.AsyncClient) -> None:
    await control(client, records=4000)
    issues = await walk(client, "/repos/northwind-dev/storefront/issues", state="all", per_page=100)
    commits = await walk(client, "/repos/northwind-dev/storefront/commits", per_page=100)
    texts = [row["body"] or "" for row in issues]
    assert any(row["body"] is None for row in issues)
    assert any(row["user"] is None for row in issues)
    assert any(row["user"] and row["user"]["type"] == "Bot" for row in issues)
    assert any(not text.isascii() for text in texts + [row["title"] for row in issues])
    for pattern in (r"#[1-9]\d*", r"@[a-z]+-[a-z]+", r"[\w.]+@[\w-]+\.test"):
        assert any(re.search(pattern, text) for text in texts)
    assert any(row["author"] is None for row in commits)
    assert all(row["created_at"] <= row["updated_at"] for row in issues)
    hours = [at(row["commit"]["author"]["date"]).hour for row in commits]
    assert sum(8 <= hour < 18 for hour in hours) > 0.7 * len(hours)
    assert min(at(row["created_at"]) for row in issues) > NOW - timedelta(days=405)


async def test_the_hours_limit_is_told_and_kept(client: httpx2.AsyncClient) -> None:
    await control(client, rate_limit=3)
    for left in (2, 1, 0):
        reply = await client.get("/sandbox/github/user", headers=GITHUB)
        assert (reply.status_code, reply.headers["x-ratelimit-remaining"]) == (200, str(left))
        assert "repo" in reply.headers["x-oauth-scopes"]
    reply = await client.get("/sandbox/github/user", headers=GITHUB)
    assert (reply.status_code, reply.headers["x-ratelimit-remaining"]) == (403, "0")
    await control(client, reset=True)
    reply = await client.get("/sandbox/github/user", headers=GITHUB)
    assert (reply.status_code, reply.headers["x-ratelimit-limit"]) == (200, "5000")


# -- SOQL -----------------------------------------------------------------------------------------------------------------

TABLES = {
    "Account": "accounts",
    "Contact": "contacts",
    "Lead": "leads",
    "Opportunity": "opportunities",
    "OpportunityContactRole": "contact_roles",
    "Case": "cases",
    "Task": "tasks",
    "Event": "events",
}
PARENTS = {"Account": "Parent", "Task": "Who", "Event": "Who"}


@pytest.mark.parametrize("table", TABLES)
async def test_the_providers_own_query_reads_every_row(client: httpx2.AsyncClient, table: str) -> None:
    from integrations.providers.salesforce import _COMMON, _FIELDS

    await control(client, records=3000)
    headers = bearer(await signed_in_to(client, "salesforce"))
    fields = f"{_FIELDS[table]}, {_COMMON}"
    order = "ORDER BY SystemModstamp ASC, Id ASC"
    rows = await select(client, headers, f"SELECT {fields} FROM {table} {order}")
    assert len(rows) == (await truth(client, "salesforce"))[TABLES[table]] > 200
    assert len({row["Id"] for row in rows}) == len(rows)
    assert [(row["SystemModstamp"], row["Id"]) for row in rows] == sorted(
        (row["SystemModstamp"], row["Id"]) for row in rows
    )
    for row in rows:
        assert set(row) == {"attributes", *(name.strip().partition(".")[0] for name in fields.split(","))}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000\+0000", row["SystemModstamp"])
    assert any(row["IsDeleted"] for row in rows)
    if (parents := PARENTS.get(table, "Account")) in rows[0]:
        assert any(row[parents] is None for row in rows)
        assert any(row[parents] for row in rows)
    low, high = rows[20]["SystemModstamp"], rows[-20]["SystemModstamp"]
    literals = [value.replace("+0000", "Z") for value in (low, high)]
    window = f"SystemModstamp >= {literals[0]} AND SystemModstamp < {literals[1]}"
    inside = await select(client, headers, f"SELECT Id FROM {table} WHERE {window} {order}")
    assert [row["Id"] for row in inside] == [row["Id"] for row in rows if low <= row["SystemModstamp"] < high]
    count = (await query(client, headers, f"SELECT COUNT() FROM {table} WHERE {window}")).json()
    assert count == {"totalSize": len(inside), "done": True, "records": []}
    living = (await query(client, headers, f"SELECT COUNT() FROM {table}", "query")).json()["totalSize"]
    assert living == sum(not row["IsDeleted"] for row in rows)
    newest = await query(client, headers, f"select id from {table.lower()} order by systemmodstamp desc limit 3")
    assert [row["Id"] for row in newest.json()["records"]] == [row["Id"] for row in rows[:-4:-1]]


@pytest.mark.parametrize(
    ("soql", "code"),
    [
        ("", "MALFORMED_QUERY"),
        ("SELECT", "MALFORMED_QUERY"),
        ("DELETE FROM Account", "MALFORMED_QUERY"),
        ("SELECT Id FROM", "MALFORMED_QUERY"),
        ("SELECT Id, FROM Account", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account WHERE", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account WHERE SystemModstamp", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account LIMIT x", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account LIMIT ²", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account LIMIT 1 WHERE Id > 1", "MALFORMED_QUERY"),
        ("SELECT " * 4000, "MALFORMED_QUERY"),
        ("SELECT Id FROM Invoice__c", "INVALID_TYPE"),
        ("SELECT Nope FROM Account", "INVALID_FIELD"),
        ("SELECT Owner FROM Account", "INVALID_FIELD"),
        ("SELECT Owner.Nope FROM Account WHERE SystemModstamp < 1990-01-01T00:00:00Z", "INVALID_FIELD"),
        ("SELECT Id FROM Account WHERE Nope > 2025-01-01T00:00:00Z", "INVALID_FIELD"),
        ("SELECT Id FROM Account WHERE SystemModstamp > 2025-01-01", "INVALID_FIELD"),
        ("SELECT Id FROM Account ORDER BY Nope", "INVALID_FIELD"),
    ],
)
async def test_a_wrong_query_is_refused_in_the_providers_way(client: httpx2.AsyncClient, soql: str, code: str) -> None:
    headers = bearer(await signed_in_to(client, "salesforce"))
    reply = await query(client, headers, soql)
    assert reply.status_code == 400
    assert [error["errorCode"] for error in reply.json()] == [code]
    assert reply.json()[0]["message"]


async def test_a_locator_belongs_to_its_account_and_its_world(client: httpx2.AsyncClient) -> None:
    await control(client, records=3000)
    headers = bearer(await signed_in_to(client, "salesforce"))
    strange = bearer(await signed_in_to(client, "salesforce", SECOND["salesforce"]))
    first = await query(client, headers | {"Sforce-Query-Options": "batchSize=200"}, "SELECT Id FROM Task")
    path = first.json()["nextRecordsUrl"]
    assert path.startswith("/services/data/v67.0/query/")
    good = f"/sandbox/salesforce{path}"
    assert (await client.get(good, headers=headers)).status_code == 200
    for address, who_asks in (
        (good, strange),
        (f"{SOQL}/query/01gsb-²", headers),
        (f"{SOQL}/query/none-200", headers),
        (good.rpartition("-")[0] + "-999999", headers),
        (good.rpartition("-")[0], headers),
    ):
        reply = await client.get(address, headers=who_asks)
        assert (reply.status_code, reply.json()[0]["errorCode"]) == (400, "INVALID_QUERY_LOCATOR")
    await control(client, seed=9)
    assert (await client.get(good, headers=headers)).json()[0]["errorCode"] == "INVALID_QUERY_LOCATOR"


async def test_organizations_share_no_ids(client: httpx2.AsyncClient) -> None:
    ids = []
    for account in ("", SECOND["salesforce"]):
        headers = bearer(await signed_in_to(client, "salesforce", account))
        ids.append({row["Id"] for row in await select(client, headers, "SELECT Id FROM Contact")})
    assert ids[0]
    assert not ids[0] & ids[1]


# -- as the importer reads it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", ["github", "salesforce"])
async def test_the_providers_code_reads_and_counts_what_is_true(client: httpx2.AsyncClient, slug: str) -> None:
    from integrations.http import Api
    from integrations.providers import PROVIDERS
    from integrations.providers.base import WHOLE, Context, Window, WindowKind

    provider = PROVIDERS[slug]
    token = (await signed_in_to(client, slug))["access_token"]
    api = Api(provider, f"http://host.test/sandbox/{slug}", ByHttpx(client), token, namespace=slug)
    account = await provider.identify(api)
    assert account.external_id in ("9000000", "00Dsb0000000001AAA")
    window = Window(NOW - timedelta(days=200), NOW - timedelta(days=20))
    wanted = await truth(client, slug, since=window.since.isoformat(), until=window.until.isoformat())
    for stream in provider.streams:
        partitions = await provider.partitions(api) if stream.partitioned else [WHOLE]
        found, counted = set(), 0
        for partition in partitions:
            if stream.count is not None:
                estimate = await stream.count(api, partition, window)
                counted += estimate.records if estimate is not None else 0
            cursor = None
            while True:
                page = await stream.fetch(api, partition, window, cursor)
                assert not page.rejected
                for record in page.records:
                    stream.extract(record.payload, Context(slug, partition))
                    if stream.window is WindowKind.SNAPSHOT or window.since <= record.occurred_at < window.until:
                        found.add((partition.key, record.external_id))
                cursor = page.next_cursor
                if cursor is None:
                    break
        assert len(found) == wanted[stream.name] > 0
        # Commits are counted with both ends of the window.
        assert stream.count is None or 0 <= counted - len(found) <= (2 if stream.name == "commits" else 0)


# -- the world ------------------------------------------------------------------------------------------------------------


async def test_the_same_people_are_in_both_providers(client: httpx2.AsyncClient) -> None:
    headers = bearer(await signed_in_to(client, "salesforce"))
    rows = await select(client, headers, "SELECT Email, Owner.Email FROM Contact")
    authors = {row["commit"]["author"]["email"] for row in await walk_all(client, "/commits")}
    assert len(authors & {row["Email"] for row in rows}) > 10
    assert authors & {row["Owner"]["Email"] for row in rows}


@pytest.mark.parametrize("records", [50, 2000])
async def test_an_account_holds_about_as_much_as_was_asked_for(records: int) -> None:
    async with client_of(make_app(records=records, now=NOW)) as client:
        for provider in ("github", "salesforce"):
            assert sum((await truth(client, provider)).values()) == pytest.approx(records, rel=0.1, abs=15)


async def everything(app: Any) -> list[Any]:
    async with client_of(app) as client:
        headers = bearer(await signed_in_to(client, "salesforce"))
        return [
            await walk_all(client, "/issues", state="all"),
            await walk_all(client, "/pulls", state="all"),
            await walk_all(client, "/issues/comments"),
            await walk_all(client, "/commits"),
            await select(client, headers, "SELECT Id, Name, Amount, Owner.Email, SystemModstamp FROM Opportunity"),
        ]


async def test_the_same_seed_makes_the_same_world() -> None:
    first, second = make_app(5, 200, NOW), make_app(5, 200, NOW + timedelta(minutes=20))
    assert await everything(first) == await everything(second)
    assert await everything(first) != await everything(make_app(6, 200, NOW))


async def test_the_world_can_be_rebuilt(client: httpx2.AsyncClient) -> None:
    before = await truth(client, "github")
    state = await control(client, records=300, seed=8)
    assert (state["records"], state["seed"]) == (300, 8)
    assert (await truth(client, "github"))["issues"] < before["issues"]
    await control(client, records=900, seed=3)
    assert await truth(client, "github") == before


async def test_a_hundred_thousand_records_are_made_when_they_are_asked_for() -> None:
    tracemalloc.start()
    app = make_app(records=100_000, now=NOW)
    idle = tracemalloc.get_traced_memory()[0]
    async with client_of(app) as client:
        counts = await truth(client, "github")
        assert sum(counts.values()) == pytest.approx(100_000, rel=0.05)
        page = await walk(client, "/user/repos")
        assert page
        reply = await client.get(
            "/sandbox/github/repos/northwind-dev/storefront/issues", params={"page": 99}, headers=GITHUB
        )
        assert len(reply.json()) == 30
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert idle < 5_000_000
    assert peak < 100_000_000


# -- faults and switches --------------------------------------------------------------------------------------------------


async def test_every_nth_call_meets_its_fault(client: httpx2.AsyncClient) -> None:
    await control(client, rate_limit_every=3, retry_after=7)
    statuses = [(await client.get("/sandbox/github/user", headers=GITHUB)) for _ in range(6)]
    assert [reply.status_code for reply in statuses] == [200, 200, 403] * 2
    limited = statuses[2]
    assert (limited.headers["retry-after"], limited.headers["x-ratelimit-remaining"]) == ("7", "0")
    assert "rate limit" in limited.json()["message"]

    await control(client, reset=True, error_every=2)
    statuses = [await client.get("/sandbox/github/user", headers=GITHUB) for _ in range(4)]
    assert [reply.status_code for reply in statuses] == [200, 502] * 2

    await control(client, reset=True, html_every=1)
    page = await client.get("/sandbox/github/user", headers=GITHUB)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")

    await control(client, reset=True, truncate_every=1)
    cut = await client.get("/sandbox/github/user/repos", headers=GITHUB)
    assert cut.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut.content)

    await control(client, reset=True)
    assert (await client.get("/sandbox/github/user", headers=GITHUB)).json()["login"] == "northwind-dev"


async def test_salesforces_own_limits(client: httpx2.AsyncClient) -> None:
    headers = bearer(await signed_in_to(client, "salesforce"))
    await control(client, rate_limit_every=1)
    reply = await query(client, headers, "SELECT COUNT() FROM Account")
    assert (reply.status_code, reply.json()[0]["errorCode"]) == (403, "REQUEST_LIMIT_EXCEEDED")
    assert "TotalRequests" not in reply.json()[0]["message"]
    await control(client, rate_limit_every=0, daily_quota=2)
    statuses = [await query(client, headers, "SELECT COUNT() FROM Account") for _ in range(4)]
    assert [reply.status_code for reply in statuses] == [200, 200, 403, 403]
    assert re.fullmatch(r"api-usage=\d+/2", statuses[0].headers["sforce-limit-info"])
    assert statuses[3].json() == [{"message": "TotalRequests Limit exceeded.", "errorCode": "REQUEST_LIMIT_EXCEEDED"}]


async def test_oauth_has_no_bad_days(client: httpx2.AsyncClient) -> None:
    await control(client, error_every=1, latency_ms=0)
    assert "access_token" in await signed_in_to(client, "github")
    assert "access_token" in await signed_in_to(client, "salesforce")
    assert (await client.get("/sandbox/__control")).json()["calls"] == 0


@pytest.mark.parametrize(
    "body",
    [
        [],
        "x",
        None,
        {"nope": 1},
        {"error_every": -1},
        {"error_every": 1.5},
        {"error_every": True},
        {"error_every": "2"},
        {"latency_ms": None},
        {"retry_after": 10**9},
        {"revoke": "gitlab"},
        {"revoke": ["github"]},
        {"expire": {}},
        {"records": 0},
        {"records": True},
        {"records": 10**9},
        {"seed": "1"},
        {"seed": 10**30},
        {"reset": "yes"},
        {"reset": True, "nope": 1},
    ],
)
async def test_bad_settings_change_nothing(client: httpx2.AsyncClient, body: Any) -> None:
    before = await control(client, error_every=5)
    reply = await client.post("/sandbox/__control", json=body)
    assert (reply.status_code, bool(reply.json()["message"])) == (400, True)
    assert (await client.get("/sandbox/__control")).json() == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain; application/json", "", "application/x-www-form-urlencoded"]
)
async def test_settings_come_as_json_only(client: httpx2.AsyncClient, kind: str) -> None:
    reply = await client.post("/sandbox/__control", content=b'{"error_every": 1}', headers={"Content-Type": kind})
    assert reply.status_code == 400
    assert (await client.get("/sandbox/__control")).json()["error_every"] == 0


@pytest.mark.parametrize("caller", [("203.0.113.9", 1), ("localhost", 1), ("", 0), None])
async def test_the_switches_answer_to_this_machine_only(caller: Any) -> None:
    app = make_app(records=60)
    async with client_of(app, client=caller) as client:
        for path in ("__control", "__truth?provider=github", "__log"):
            assert (await client.get(f"/sandbox/{path}")).status_code == 404
        assert (await client.post("/sandbox/__control", json={"error_every": 1})).status_code == 404
        assert (await client.get("/sandbox/github/user", headers=GITHUB)).status_code == 200
    async with client_of(app, client=("::1", 1)) as client:
        assert (await client.get("/sandbox/__control")).status_code == 200


async def test_the_log_tells_the_last_calls(client: httpx2.AsyncClient) -> None:
    await control(client, error_every=2)
    for _ in range(203):
        await client.get("/sandbox/github/user", headers=GITHUB)
    await client.get("/sandbox/style.css")
    log = (await client.get("/sandbox/__log")).json()
    assert len(log) == 200
    assert (log[-1]["method"], log[-1]["path"], log[-1]["status"]) == ("GET", "/user", 200)
    assert log[-2]["status"] == 502


async def test_truth_refuses_what_it_does_not_know(client: httpx2.AsyncClient) -> None:
    for query, status in (
        ({}, 400),
        ({"provider": "gitlab"}, 400),
        ({"provider": "github", "account": "x"}, 404),
        ({"provider": "github", "since": "yesterday"}, 400),
    ):
        assert (await client.get("/sandbox/__truth", params=query)).status_code == status


# -- whatever comes -------------------------------------------------------------------------------------------------------


async def test_bad_input_is_never_a_server_error(client: httpx2.AsyncClient) -> None:
    salesforce = bearer(await signed_in_to(client, "salesforce"))
    odd = ["", "x", "²", "-1", "0", "9" * 5000, "2025-13-45", "\x00", "%", "é", "0001-01-01T00:00:00+23:59"]
    for value in odd:
        for name in ("page", "per_page", "since", "until", "sort", "direction", "state", "q"):
            for path in ("/user/repos", "/repos/northwind-dev/storefront/issues", "/repositories/70000000/commits"):
                reply = await client.get(f"/sandbox/github{path}", params={name: value}, headers=GITHUB)
                assert reply.status_code in (200, 422)
        search = f"repo:northwind-dev/storefront is:pr updated:{value}..{value}"
        assert (
            await client.get("/sandbox/github/search/issues", params={"q": search}, headers=GITHUB)
        ).status_code < 500
        soql = f"SELECT Id FROM Account WHERE SystemModstamp >= {value} LIMIT {value}"
        assert (await query(client, salesforce, soql)).status_code == 400
        options = {"Sforce-Query-Options": f"batchSize={value}".encode().replace(b"\x00", b"")}
        assert (
            await client.get(f"{SOQL}/query", params={"q": "SELECT Id FROM Account"}, headers={**salesforce, **options})
        ).status_code == 200
    for provider in ("github", "salesforce"):
        reply = await client.post(f"/sandbox/{provider}{TOKENS[provider]}", content=b"\xff\x00&&=%zz")
        assert reply.status_code < 500
        assert (await client.post(f"/sandbox/{provider}/nothing", headers=GITHUB)).status_code < 500
    for path in ("/", "/elsewhere", "/sandbox/", "/sandbox/gitlab/user", "/sandbox/__nothing", "/sandbox"):
        reply = await client.get(path)
        assert (reply.status_code, reply.json()["message"]) == (404, "Not Found")


async def test_large_bodies_are_refused(client: httpx2.AsyncClient) -> None:
    for path in ("/sandbox/__control", "/sandbox/github/login/oauth/access_token"):
        assert (await client.post(path, content=b" " * (64 * 1024 + 1))).status_code == 413


async def test_lifespan_is_answered() -> None:
    sent = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await make_app(records=60)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_it_runs_alone_and_hangs_up_when_told_to() -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "integrations.sandbox", "--port", str(port), "--records", "60"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        root = process.stdout.readline().strip()
        assert root == f"http://127.0.0.1:{port}/sandbox"
        wait_for(lambda: httpx2.get(f"{root}/__control").status_code == 200)
        httpx2.post(f"{root}/__control", json={"drop_every": 2})
        assert httpx2.get(f"{root}/github/user", headers=GITHUB).status_code == 200
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.get(f"{root}/github/user", headers=GITHUB, timeout=5)
        assert httpx2.get(f"{root}/__log").json()[-1]["fault"] == "drop"
    finally:
        stop(process)
        process.stdout and process.stdout.close()
