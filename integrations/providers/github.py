"""GitHub's REST API: repositories, issues, pull requests, comments, commits. Also GitHub Enterprise Server, by its API root."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.errors import AccessDenied, CursorExpired, ProviderError, RecordRejected, Throttled
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
    RateState,
    Record,
    Relationship,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import MOST_MENTIONS, email_key, mentioned_emails

_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_LAST_PAGE = re.compile(r'[?&]page=(\d+)[^>]*>;\s*rel="last"')
_NUMBER = re.compile(r"(?<![\w/&#])#(\d{1,9})\b")
_LOGIN = re.compile(r"(?<![\w/.@+-])@([A-Za-z0-9](?:[A-Za-z0-9-]{0,38}))(?![\w@.-]*@)")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)


class _NothingThere(ProviderError):
    """An empty repository's commits, or the issues of one that has them switched off."""


# -- wire format --------------------------------------------------------------------------------------------------------------


def _time(value: str) -> datetime:
    return datetime.fromisoformat(value)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _classify(reply: Reply) -> ProviderError | None:
    status = reply.status
    if status < 400:
        return None
    message = reply.data.get("message", "") if isinstance(reply.data, dict) else ""
    if status in (403, 429):
        if (at := reply.retry_at()) is not None:
            return Throttled("GitHub's rate limit is used up.", at)
        if reply.headers.get("x-ratelimit-remaining") == "0":
            state = _rate_state(reply)
            at = reply.by_our_clock(state.reset_at) if state and state.reset_at else None
            return Throttled("GitHub's rate limit is used up.", at)
        if "rate limit" in message.lower() or status == 429:
            return Throttled("GitHub asks to slow down.", datetime.now(UTC) + timedelta(seconds=60))
        if "required" in reply.headers.get("x-github-sso", ""):
            return AccessDenied("The organization asks for single sign-on: authorise this connection for it on GitHub.")
        return AccessDenied(f"GitHub does not allow this: {message or 'permission missing'}")
    if (status == 409 and "empty" in message.lower()) or status == 410:
        return _NothingThere(message)
    if status == 422 and "pagination" in message.lower():
        return CursorExpired("GitHub does not list this far; going on by date.")
    return None


def _rate_state(reply: Reply) -> RateState | None:
    headers = reply.headers
    if headers.get("x-ratelimit-resource", "core") != "core":
        return None
    try:
        reset = datetime.fromtimestamp(int(headers["x-ratelimit-reset"]), UTC)
        return RateState(int(headers["x-ratelimit-remaining"]), int(headers["x-ratelimit-limit"]), reset)
    except (KeyError, ValueError):
        return None


def _next(reply: Reply) -> str | None:
    found = _NEXT.search(reply.headers.get("link", ""))
    return found.group(1) if found else None


def _rows(reply: Reply) -> list[Any]:
    if not isinstance(reply.data, list):
        raise ProviderError("GitHub answered with something that is not a list.")
    return reply.data


def _records(
    rows: list[Any], time_of: Callable[[JSON], str], id_key: str
) -> tuple[list[Record], list[tuple[str, Any, str]]]:
    records, rejected = [], []
    for row in rows:
        try:
            records.append(Record(str(row[id_key]), _time(time_of(row)), row))
        except (KeyError, TypeError, ValueError) as error:
            named = str(row.get(id_key, "")) if isinstance(row, dict) else ""
            rejected.append((named, row, f"no usable id or time: {type(error).__name__} {error}"))
    return records, rejected


def _updated(row: JSON) -> str:
    return str(row["updated_at"])


def _repo(partition: Partition) -> str:
    return f"/repos/{partition.facts['full_name']}"


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _since_list(path: str, extra: Mapping[str, str]) -> Callable[..., Any]:
    """Lists that take `since` and come oldest update first.

    A row that is touched while we read moves to the end and shifts the rest, so numbered pages would miss one at a page's edge.
    Each page therefore asks anew from the last time seen; `next` is followed only where a whole page shares one second.
    """

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        since = cursor["since"] if cursor else _stamp(window.since)
        try:
            if cursor and "url" in cursor:
                reply = await api.get(cursor["url"])
            else:
                params = {**extra, "since": since, "sort": "updated", "direction": "asc", "per_page": 100}
                reply = await api.get(_repo(partition) + path, params)
        except _NothingThere:
            return Page([], None)
        records, rejected = _records(_rows(reply), _updated, "id")
        following = _next(reply)
        last = max((record.occurred_at for record in records), default=None)
        # Rows of the second that the page before ended in come again; those that it had are not told twice.
        had = set(cursor.get("had", ())) if cursor else set()
        fresh = [r for r in records if r.external_id not in had or _stamp(r.occurred_at) != since]
        if following is None or (last is not None and last >= window.until):
            return Page(fresh, None, last, rejected)
        if last is None or _stamp(last) == since:
            ended = [r.external_id for r in fresh if _stamp(r.occurred_at) == since]
            return Page(fresh, {"since": since, "url": following, "had": [*had, *ended]}, last, rejected)
        ended = [r.external_id for r in records if r.occurred_at == last]
        return Page(fresh, {"since": _stamp(last), "had": ended}, last, rejected)

    return fetch


_fetch_issues = _since_list("/issues", {"state": "all"})
_fetch_comments = _since_list("/issues/comments", {})
_fetch_review_comments = _since_list("/pulls/comments", {})


async def _fetch_pulls(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Newest update first, down to the window's beginning: a row touched meanwhile comes twice, none is missed."""
    if cursor:
        reply = await api.get(cursor["url"])
    else:
        reply = await api.get(
            _repo(partition) + "/pulls", {"state": "all", "sort": "updated", "direction": "desc", "per_page": 100}
        )
    records, rejected = _records(_rows(reply), _updated, "id")
    oldest = min((record.occurred_at for record in records), default=None)
    following = _next(reply)
    if following is None or (oldest is not None and oldest < window.since):
        return Page(records, None, oldest, rejected)
    return Page(records, {"url": following}, oldest, rejected)


async def _fetch_commits(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    try:
        if cursor:
            reply = await api.get(cursor["url"])
        else:
            params = {"since": _stamp(window.since), "until": _stamp(window.until), "per_page": 100}
            reply = await api.get(_repo(partition) + "/commits", params)
    except _NothingThere:
        return Page([], None)
    records, rejected = _records(_rows(reply), lambda row: str(row["commit"]["committer"]["date"]), "sha")
    following = _next(reply)
    return Page(records, {"url": following} if following else None, None, rejected)


async def _fetch_repositories(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    reply = await _repositories_page(api, cursor["url"] if cursor else None)
    records, rejected = _records(_rows(reply), lambda row: str(row.get("updated_at") or row["created_at"]), "id")
    following = _next(reply)
    return Page(records, {"url": following} if following else None, None, rejected)


async def _repositories_page(api: Api, url: str | None) -> Reply:
    if url:
        return await api.get(url)
    affiliation = "owner,collaborator,organization_member"
    return await api.get(
        "/user/repos", {"affiliation": affiliation, "sort": "updated", "direction": "asc", "per_page": 100}
    )


async def _partitions(api: Api) -> list[Partition]:
    found: dict[str, Partition] = {}
    url = None
    while True:
        reply = await _repositories_page(api, url)
        for row in _rows(reply):
            key = str(row["id"])
            found[key] = Partition(key, row["full_name"], {"full_name": row["full_name"]})
        url = _next(reply)
        if url is None:
            return list(found.values())


def _count_since(path: str, extra: Mapping[str, str]) -> Callable[..., Any]:
    """Counts a list that takes `since`: one row a page, so the last page's number is the count."""

    async def updated_since(api: Api, partition: Partition, moment: datetime) -> int:
        params = {**extra, "since": _stamp(moment), "sort": "updated", "direction": "asc", "per_page": 1}
        try:
            reply = await api.get(_repo(partition) + path, params)
        except _NothingThere:
            return 0
        return _last_page(reply)

    async def count(api: Api, partition: Partition, window: Window) -> Estimate | None:
        records = await updated_since(api, partition, window.since)
        if records and window.until < datetime.now(UTC) - timedelta(minutes=10):
            records -= await updated_since(api, partition, window.until)
        return Estimate(max(records, 0), exact=True)

    return count


def _last_page(reply: Reply) -> int:
    last = _LAST_PAGE.search(reply.headers.get("link", ""))
    return int(last.group(1)) if last else len(_rows(reply))


async def _count_pulls(api: Api, partition: Partition, window: Window) -> Estimate | None:
    last = window.until - timedelta(microseconds=1)  # the search's ranges include both ends
    query = f"repo:{partition.facts['full_name']} is:pr updated:{_stamp(window.since)}..{_stamp(last)}"
    reply = await api.get("/search/issues", {"q": query, "per_page": 1})
    return Estimate(int(reply.data["total_count"]), exact=True)


async def _count_commits(api: Api, partition: Partition, window: Window) -> Estimate | None:
    """One commit a page: the last page's number is the count. Both ends are included."""
    last = window.until - timedelta(microseconds=1)
    params = {"since": _stamp(window.since), "until": _stamp(last), "per_page": 1}
    try:
        reply = await api.get(_repo(partition) + "/commits", params)
    except _NothingThere:
        return Estimate(0, exact=True)
    return Estimate(_last_page(reply), exact=True)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _user(user: JSON, ns: str) -> Entity:
    login = user["login"]
    handles = (f"{ns}:login:{login.lower()}",)
    if user.get("type") == "Organization":
        return Entity("organization", f"{ns}:org:{user['id']}", login, None, (), handles)
    return Entity("person", f"{ns}:user:{user['id']}", login, None, (), handles)


def _mentions(text: str | None, source: str, ns: str, repo: str, said: list[Relationship]) -> None:
    """Adds what the text mentions: #numbers of the same repository, @logins, e-mail addresses. Code is not text."""
    if not text:
        return
    number, at = "#" in text, "@" in text
    if not number and not at:
        return
    if "`" in text:
        text = _CODE.sub(" ", text)
    found: dict[str, None] = {}
    if number:
        for match in _NUMBER.findall(text)[:MOST_MENTIONS]:
            found[f"{ns}:issue:{repo}#{int(match)}"] = None
    if at:
        for match in _LOGIN.findall(text)[:MOST_MENTIONS]:
            found[f"{ns}:login:{match.lower()}"] = None
        found.update(dict.fromkeys(mentioned_emails(text)))
    found.pop(source, None)
    said.extend([Relationship("mentions", source, target) for target in found])


def _extract_issue(row: JSON, context: Context) -> Graph:
    return _issue(row, context, "pull_request" if row.get("pull_request") else "issue", {})


def _extract_pull(row: JSON, context: Context) -> Graph:
    branches = {
        "merged_at": row.get("merged_at"),
        "draft": row.get("draft"),
        "from": row["head"]["ref"],
        "into": row["base"]["ref"],
    }
    return _issue(row, context, "pull_request", branches)


def _issue(row: JSON, context: Context, kind: str, more: JSON) -> Graph:
    ns, repo = context.namespace, context.partition.key
    number, title = row["number"], row["title"]
    key = f"{ns}:issue:{repo}#{number}"
    repository = f"{ns}:repository:{repo}"
    entities = [
        Entity(
            kind,
            key,
            title or f"#{number}",
            {"number": number, "state": row["state"], "url": row.get("html_url"), **more},
        ),
        Entity("repository", repository, context.partition.label),
    ]
    said = [Relationship("part_of", key, repository)]
    author = row.get("user")
    if author:
        person = _user(author, ns)
        entities.append(person)
        said.append(Relationship("authored", person.key, key))
    assignees = row.get("assignees")
    if assignees is None and row.get("assignee"):
        assignees = [row["assignee"]]
    for assignee in assignees or ():
        person = _user(assignee, ns)
        entities.append(person)
        said.append(Relationship("assigned_to", key, person.key))
    for label in row.get("labels") or ():
        name = label["name"] if isinstance(label, dict) else label
        label_key = f"{ns}:label:{repo}:{name}"
        entities.append(Entity("label", label_key, name))
        said.append(Relationship("labelled", key, label_key))
    milestone = row.get("milestone")
    if milestone:
        milestone_key = f"{ns}:milestone:{repo}#{milestone['number']}"
        entities.append(Entity("milestone", milestone_key, milestone["title"]))
        said.append(Relationship("in_milestone", key, milestone_key))
    _mentions(row.get("body"), key, ns, repo, said)
    return Graph(entities, said)


def _extract_comment(row: JSON, context: Context) -> Graph:
    ns, repo = context.namespace, context.partition.key
    key = f"{ns}:comment:{row['id']}"
    about = row.get("issue_url") or row.get("pull_request_url")
    if not about:
        raise RecordRejected("the comment does not say what it is on")
    issue = f"{ns}:issue:{repo}#{about.rsplit('/', 1)[-1]}"
    text = row.get("body") or ""
    name = text.strip().partition("\n")[0][:120] or "(empty comment)"
    entities = [Entity("message", key, name, {"url": row.get("html_url")})]
    said = [Relationship("comment_on", key, issue)]
    if row.get("user"):
        person = _user(row["user"], ns)
        entities.append(person)
        said.append(Relationship("authored", person.key, key))
    _mentions(text, key, ns, repo, said)
    return Graph(entities, said)


def _extract_commit(row: JSON, context: Context) -> Graph:
    ns, repo = context.namespace, context.partition.key
    commit = row["commit"]
    key, repository = f"{ns}:commit:{row['sha']}", f"{ns}:repository:{repo}"
    message = commit.get("message") or ""
    entities = [
        Entity(
            "commit",
            key,
            message.strip().partition("\n")[0][:200] or row["sha"][:10],
            {"sha": row["sha"], "url": row.get("html_url")},
        ),
        Entity("repository", repository, context.partition.label),
    ]
    said = [Relationship("part_of", key, repository)]
    git_author = commit.get("author") or {}
    address = email_key(git_author.get("email"))
    if row.get("author"):
        # GitHub itself matched the address to the account, so both are one person.
        account = _user(row["author"], ns)
        person = (
            account
            if address is None
            else Entity(
                account.kind, address, git_author.get("name") or account.name, None, (account.key,), account.handles
            )
        )
    elif address is not None:
        person = Entity("person", address, git_author.get("name") or address.rpartition(":")[2])
    else:
        person = None
    if person is not None:
        entities.append(person)
        said.append(Relationship("authored", person.key, key))
    _mentions(message, key, ns, repo, said)
    return Graph(entities, said)


def _extract_repository(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    key = f"{ns}:repository:{row['id']}"
    facts = {name: row.get(name) for name in ("description", "private", "archived", "default_branch")}
    entities = [Entity("repository", key, row["full_name"], {**facts, "url": row.get("html_url")})]
    said = []
    if row.get("owner"):
        owner = _user(row["owner"], ns)
        entities.append(owner)
        said.append(Relationship("owned_by", key, owner.key))
    return Graph(entities, said)


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/user")
    granted = reply.headers.get("x-oauth-scopes")
    scopes = None if granted is None else tuple(scope.strip() for scope in granted.split(",") if scope.strip())
    return Account(str(reply.data["id"]), str(reply.data["login"]), scopes)


async def _revoke(grant: Revocation) -> None:
    await grant.api.request(
        "DELETE",
        f"/applications/{grant.client_id}/grant",
        json={"access_token": grant.access_token},
        auth=(grant.client_id, grant.client_secret),
    )


_ISSUE_ACCESS = ("repo",)

GITHUB = Provider(
    slug="github",
    name="GitHub",
    category="Engineering",
    summary="Who builds what: repositories, issues, pull requests and the talk around them.",
    brings=("Repositories", "Issues", "Pull requests", "Comments", "Commits"),
    api_url="https://api.github.com",
    auth_url="https://github.com",
    headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
    identify=_identify,
    partitions=_partitions,
    partition_label="Repositories",
    classify=_classify,
    rate_state=_rate_state,
    budget=RateBudget(requests=5000, seconds=3600, concurrency=16),
    oauth=OAuth("/login/oauth/authorize", "/login/oauth/access_token", ("repo", "read:org", "read:user", "user:email"), revoke=_revoke),
    token_help="A personal access token with the scopes repo, read:org, read:user and user:email "
    "(or a fine-grained one with read access to contents, issues, metadata and pull requests).",
    self_hosted=True,
    streams=(
        Stream("repositories", "Repositories", WindowKind.SNAPSHOT, _fetch_repositories, _extract_repository, names_partitions=True),
        Stream("issues", "Issues", WindowKind.LOWER_BOUND, _fetch_issues, _extract_issue, _count_since("/issues", {"state": "all"}), partitioned=True, needs=_ISSUE_ACCESS),
        Stream(
            "pull_requests", "Pull requests", WindowKind.SCAN, _fetch_pulls, _extract_pull, _count_pulls,
            ascending=False, partitioned=True, needs=_ISSUE_ACCESS,
        ),
        Stream("comments", "Comments", WindowKind.LOWER_BOUND, _fetch_comments, _extract_comment, _count_since("/issues/comments", {}),
            partitioned=True, needs=_ISSUE_ACCESS),
        Stream(
            "review_comments", "Review comments", WindowKind.LOWER_BOUND, _fetch_review_comments, _extract_comment, _count_since("/pulls/comments", {}),
            partitioned=True, needs=_ISSUE_ACCESS,
        ),
        Stream(
            "commits", "Commits", WindowKind.EXACT, _fetch_commits, _extract_commit, _count_commits,
            ascending=False, partitioned=True, needs=_ISSUE_ACCESS,
        ),
    ),
)  # fmt: skip
