"""The jira package, which others wrote, against Jira's stand-in: through the gateway as an app, and at the site as a person."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from jira import JIRA
from jira.exceptions import JIRAError

from integrations.sandbox.jira import Jira
from integrations.sandbox.jira_rows import SITES
from integrations.sandbox.tokens import Tokens

ACCOUNT = next(iter(SITES))
NORTHWIND, LABS = SITES[ACCOUNT]


def through_the_gateway(sandbox: Any, site: str, **more: Any) -> JIRA:
    token = Tokens().make(Jira.prefix, "jira", ACCOUNT, "access", "grant")
    options = {"rest_api_version": "3"}
    return JIRA(f"{sandbox.root}/jira/ex/jira/{site}", options=options, token_auth=token, max_retries=0, **more)


@pytest.fixture
def client(sandbox: Any) -> Iterator[JIRA]:
    client = through_the_gateway(sandbox, NORTHWIND.id)
    yield client
    client.close()


def issues(client: JIRA, jql: str, fields: str = "*all") -> list[Any]:
    return list(client.enhanced_search_issues(jql, maxResults=0, fields=fields, use_post=True))


def test_it_is_a_cloud_and_knows_who_asks(client: JIRA) -> None:
    assert client.deploymentType == "Cloud"
    assert client.myself()["accountId"] == ACCOUNT


def test_a_person_reaches_the_site_itself_with_an_api_token(sandbox: Any) -> None:
    own = JIRA(f"{sandbox.root}/jira", basic_auth=("ana@northwind.test", "ATATT3x"), max_retries=0)
    assert own.server_info()["baseUrl"] == NORTHWIND.url
    assert own.myself()["emailAddress"]
    own.close()


def test_it_finds_every_issue_of_every_site(client: JIRA, sandbox: Any) -> None:
    other = through_the_gateway(sandbox, LABS.id)
    found = {site: issues(at, "created > 0 ORDER BY key ASC") for site, at in (("own", client), ("labs", other))}
    other.close()
    assert sum(map(len, found.values())) == sandbox.truth("jira")["issues"]
    assert {issue.fields.project.key for issue in found["own"]} == {"OPS", "WEB", "SUP"}
    assert {issue.fields.project.key for issue in found["labs"]} == {"LAB"}
    assert len({issue.key for issue in found["own"]}) == len(found["own"])


def test_windows_are_absolute_as_milliseconds_and_local_in_words(client: JIRA) -> None:
    rows = issues(client, "project = OPS ORDER BY updated ASC", "updated")
    middle = rows[len(rows) // 2].fields.updated
    from datetime import datetime

    moment = datetime.fromisoformat(middle)
    ms = int(moment.timestamp() // 60 * 60_000)
    late = issues(client, f"project = OPS AND updated >= {ms} ORDER BY updated ASC, key ASC", "updated")
    assert [row.key for row in late] == [row.key for row in rows[-len(late) :]]
    words = moment.strftime("%Y-%m-%d %H:%M")
    assert {row.key for row in issues(client, f'project = OPS AND updated >= "{words}"')} == {row.key for row in late}
    assert client.approximate_issue_count(f"project = OPS AND updated >= {ms}") == len(late)


def test_only_bounded_searches_are_answered_and_only_ids_unless_asked(client: JIRA) -> None:
    with pytest.raises(JIRAError) as caught:
        issues(client, "order by key")
    assert caught.value.status_code == 400
    assert "Unbounded" in caught.value.text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = client.enhanced_search_issues("project = OPS", fields="id", maxResults=3, json_result=True)
    assert all(set(row) == {"id"} for row in bare["issues"])
    assert bare["nextPageToken"]
    assert not bare["isLast"]


def test_comments_and_work_come_with_the_issue_and_in_lists(client: JIRA, sandbox: Any) -> None:
    comments = worklogs = 0
    for at in (client, through_the_gateway(sandbox, LABS.id)):
        for issue in issues(at, "created > 0", "comment,worklog"):
            listed = at.comments(issue)
            assert len(listed) == issue.fields.comment.total
            assert all(comment.body.type == "doc" for comment in listed)
            comments += len(listed)
            worklogs += len(at.worklogs(issue))
        if at is not client:
            at.close()
    truth = sandbox.truth("jira")
    assert (comments, worklogs) == (truth["comments"], truth["worklogs"])


def test_changes_come_when_they_are_asked_for(client: JIRA) -> None:
    found = client.enhanced_search_issues(
        "project = OPS", maxResults=0, expand="changelog", fields="status", use_post=True
    )
    histories = [history for issue in found for history in issue.changelog.histories]
    assert histories
    assert all(item.field in ("status", "assignee") for history in histories for item in history.items)


def test_it_understands_what_is_refused(client: JIRA, sandbox: Any) -> None:
    with pytest.raises(JIRAError) as caught:
        client.issue("OPS-99999")
    assert caught.value.status_code == 404
    sandbox.control(deny=["jira.issues"])
    with pytest.raises(JIRAError) as caught:
        issues(client, "project = OPS", "summary")
    assert caught.value.status_code == 401
    assert "scope" in caught.value.text
    sandbox.control(reset=True)
    sandbox.control(rate_limit_every=1)
    with pytest.raises(JIRAError) as caught:
        client.myself()
    assert caught.value.status_code == 429
    assert caught.value.response.headers["RateLimit-Reason"] == "jira-burst-based"
