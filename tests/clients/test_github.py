"""PyGithub against GitHub's stand-in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from github import Auth, Github, GithubException, RateLimitExceededException, UnknownObjectException

NAME = "northwind-dev/storefront"


@pytest.fixture
def client(sandbox: Any) -> Any:
    with Github(
        auth=Auth.Token("ghp_sandbox"), base_url=f"{sandbox.root}/github", per_page=50, retry=None,
        seconds_between_requests=None, seconds_between_writes=None,
    ) as client:  # fmt: skip
        yield client


def test_it_knows_who_it_is_and_what_it_may(client: Github) -> None:
    me = client.get_user()
    assert (me.login, me.type) == ("northwind-dev", "User")
    assert client.oauth_scopes == ["repo"]
    assert client.rate_limiting[1] == 5000
    assert client.rate_limiting_resettime > datetime.now(UTC).timestamp()


def test_it_lists_repositories_page_by_page(client: Github, sandbox: Any) -> None:
    sandbox.control(page_size=2)
    names = [repository.full_name for repository in client.get_user().get_repos(sort="full_name")]
    assert names == sorted(names)
    assert len(names) == sandbox.truth("github")["repositories"]
    empty = client.get_repo("northwind-dev/new-idea")
    assert empty.size == 0
    with pytest.raises(GithubException) as caught:
        list(empty.get_commits())
    assert caught.value.status == 409
    with pytest.raises(GithubException) as caught:
        list(client.get_repo("northwind-dev/legacy-docs").get_issues())
    assert caught.value.status == 410
    with pytest.raises(UnknownObjectException):
        client.get_repo("nobody/nothing")


def test_every_list_holds_what_is_true(client: Github, sandbox: Any) -> None:
    found = {"issues": 0, "pull_requests": 0, "comments": 0, "review_comments": 0, "commits": 0}
    for repository in client.get_user().get_repos():
        if repository.has_issues:
            found["issues"] += len(list(repository.get_issues(state="all")))
            found["comments"] += len(list(repository.get_issues_comments()))
        found["pull_requests"] += len(list(repository.get_pulls(state="all")))
        found["review_comments"] += len(list(repository.get_pulls_review_comments()))
        if repository.size:
            found["commits"] += repository.get_commits().totalCount
    truth = sandbox.truth("github")
    assert {"repositories": truth["repositories"], **found} == truth


def test_since_includes_its_edge_and_so_does_until(client: Github) -> None:
    repository = client.get_repo(NAME)
    commits = list(repository.get_commits())
    edge = commits[len(commits) // 2].commit.committer.date
    later, earlier = repository.get_commits(since=edge), repository.get_commits(until=edge)
    assert min(c.commit.committer.date for c in later) == edge == max(c.commit.committer.date for c in earlier)
    issues = list(repository.get_issues(state="all", sort="updated", direction="asc"))
    assert [i.updated_at for i in issues] == sorted(i.updated_at for i in issues)
    edge = issues[len(issues) // 2].updated_at
    after = list(repository.get_issues(state="all", sort="updated", direction="asc", since=edge))
    assert after[0].updated_at == edge
    assert [i.number for i in after] == [i.number for i in issues if i.updated_at >= edge]


def test_an_issue_is_whole(client: Github) -> None:
    repository = client.get_repo(NAME)
    for issue in repository.get_issues(state="closed")[:60]:
        assert issue.closed_at is not None
        assert issue.created_at <= issue.updated_at
        assert repository.get_issue(issue.number).title == issue.title
        if issue.pull_request is not None:
            pull = repository.get_pull(issue.number)
            assert (pull.base.ref, pull.head.ref) == ("main", f"work-{issue.number}")
            assert pull.merged_at is None or pull.state == "closed"
            break
    else:
        pytest.fail("there is no closed pull request")
    assert {issue.user.type for issue in repository.get_issues(state="all") if issue.user} == {"User", "Bot"}


def test_the_search_counts(client: Github) -> None:
    pulls = client.get_repo(NAME).get_pulls(state="all").totalCount
    month = datetime.now(UTC) - timedelta(days=500)
    assert client.search_issues(f"repo:{NAME} is:pr updated:>={month:%Y-%m-%dT%H:%M:%SZ}").totalCount == pulls


def test_it_understands_what_goes_wrong(client: Github, sandbox: Any) -> None:
    sandbox.control(rate_limit_every=1, retry_after=1)
    with pytest.raises(RateLimitExceededException):
        client.get_user().login  # noqa: B018 - asks
    sandbox.control(reset=True, deny=["github.commits"])
    with pytest.raises(GithubException) as caught:
        list(client.get_repo(NAME).get_commits())
    assert caught.value.status == 403
    sandbox.control(reset=True)
    with (
        Github(auth=Auth.Token("gho_no"), base_url=f"{sandbox.root}/github", retry=None) as stranger,
        pytest.raises(GithubException) as caught,
    ):
        stranger.get_user().login  # noqa: B018
    assert caught.value.status == 401
