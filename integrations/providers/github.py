"""GitHub's REST API: repositories, issues, pull requests, comments, commits. Also GitHub Enterprise Server, by its API root."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial

from integrations.errors import (
    UNMAPPABLE,
    AccessDenied,
    CursorExpired,
    Gone,
    NotFound,
    ProviderError,
    RecordRejected,
    Throttled,
    TookTooLong,
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
    FindGone,
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    RateState,
    Record,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import headline
from integrations.providers.replies import body, rate_headers, reset_of
from integrations.providers.text import MOST_MENTIONS, email_key, mentioned_emails
from integrations.providers.wire import (
    Rows,
    all_rows,
    last,
    last_page,
    listing,
    next_link,
    page,
    reader,
    rows_of,
    stamp,
    utc,
)

_NUMBER = re.compile(r"(?<![\w/&#])#(\d{1,9})\b")
_LOGIN = re.compile(r"(?<![\w/.@+-])@([A-Za-z0-9](?:[A-Za-z0-9-]{0,38}))(?![\w@.-]*@)")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
_ADDRESS = re.compile(
    r"https?://([\w.:-]{1,253})/([\w-]{1,39}/[\w.-]{1,100})/(?:(?:issues|pull)/([1-9]\d{0,8})|commit/([0-9a-f]{40}))\b"
)
_HUNDRED, _NUMBERED = re.compile(r"([?&]per_page=)100\b"), re.compile(r"([?&]page=)(\d{1,9})\b")
# Numbers of organizations: no more digits than a number has, as anybody's server may send the header.
_MISSING = re.compile(r"partial-results;\s{0,9}organizations=(\d{1,15}(?:,\d{1,15}){0,999})")
MOST_NAMED = 5  # of these
FEW = 25  # rows of a page, where a hundred take GitHub too long
# By their making: an order in which pages can be counted, as no push moves a repository from one to another.
_REPOSITORIES = {"affiliation": "owner,collaborator,organization_member", "sort": "created", "direction": "asc"}

# -- wire format --------------------------------------------------------------------------------------------------------------


def _classify(reply: Reply) -> ProviderError | None:
    status = reply.status
    if status < 400:
        return None
    message = str(body(reply).get("message", ""))
    if status in (403, 429):
        if (at := reply.retry_at()) is not None:
            return Throttled("GitHub's rate limit is used up.", at)
        if reply.headers.get("x-ratelimit-remaining") == "0":
            reset = reset_of(reply)
            return Throttled("GitHub's rate limit is used up.", reply.by_our_clock(reset) if reset else None)
        # Older servers of one's own call it abuse.
        if "rate limit" in message.lower() or "abuse detection" in message.lower() or status == 429:
            return Throttled("GitHub asks to slow down.", datetime.now(UTC) + timedelta(seconds=60))
        if "required" in reply.headers.get("x-github-sso", ""):
            return AccessDenied("The organization asks for single sign-on: authorise this connection for it on GitHub.")
        return AccessDenied(f"GitHub does not allow this: {message or 'permission missing'}")
    if status == 451:
        return AccessDenied(f"GitHub shows it to nobody, for legal reasons: {message or 'blocked'}")
    if (status == 409 and "empty" in message.lower()) or status == 410:
        return Gone(f"GitHub has nothing there: {message}")  # an empty repository; issues that are switched off
    if status == 422 and "pagination" in message.lower():
        return CursorExpired("GitHub does not list this far; going on by date.")
    return None


_TOLD = rate_headers()


def _rate_state(reply: Reply) -> RateState | None:
    return _TOLD(reply) if reply.headers.get("x-ratelimit-resource", "core") == "core" else None


_UPDATED = reader("id", "updated_at")
_CHANGED = reader("id", lambda row: utc(row.get("updated_at") or row["created_at"]))

# -- fetching -----------------------------------------------------------------------------------------------------------------


def _rows(reply: Reply) -> Rows:
    following = next_link(reply)
    return rows_of(reply.data, "GitHub"), {"url": following} if following else None


async def _list(api: Api, partition: Partition, path: str, params: JSON, cursor: JSON | None) -> Rows:
    """A page of a repository's list. An empty page where there is nothing.

    What takes it more than ten seconds, GitHub gives up: rows with long texts come a quarter of a page at a time then.
    """
    url = (cursor or {}).get("url")
    address = url or f"/repos/{partition.facts['full_name']}{path}"
    try:
        try:
            return _rows(await api.get(address, None if url else {**params, "per_page": 100}))
        except TookTooLong:
            if url and (few := _of_few(url)) == url:
                raise
            return _rows(await (api.get(few) if url else api.get(address, {**params, "per_page": FEW})))
    except Gone:
        return [], None


def _of_few(url: str) -> str:
    """The address of a page's first quarter. Of pages with numbers there are four times as many then."""
    few = _HUNDRED.sub(rf"\g<1>{FEW}", url)
    if few == url or "after=" in url:
        return few
    return _NUMBERED.sub(lambda page: f"{page[1]}{(int(page[2]) - 1) * 100 // FEW + 1}", few)


def _since(path: str, name: str, label: str, extract: Extract) -> Stream:
    """A list that takes `since` and comes oldest update first.

    A row that is touched while we read moves to the end and shifts the rest, so numbered pages would miss one at a page's edge.
    Each page therefore asks anew from the last time seen; `next` is followed only where a whole page shares one second.
    """
    params = {"sort": "updated", "direction": "asc", **({"state": "all"} if path == "/issues" else {})}

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        since = cursor["since"] if cursor else stamp(window.since)
        rows, following = await _list(api, partition, path, {**params, "since": since}, cursor)
        found = page(rows, _UPDATED, None, max)
        newest = found.position
        # Rows of the second that the page before ended in come again; those that it had are not told twice.
        had = set(cursor.get("had", ())) if cursor else set()
        fresh = [r for r in found.records if r.external_id not in had or stamp(r.occurred_at) != since]
        if following is None or (newest is not None and newest >= window.until):
            return found._replace(records=fresh)
        if newest is None or stamp(newest) == since:
            ended = [r.external_id for r in fresh if stamp(r.occurred_at) == since]
            return found._replace(records=fresh, next_cursor={"since": since, **following, "had": [*had, *ended]})
        ended = [r.external_id for r in found.records if r.occurred_at == newest]
        return found._replace(records=fresh, next_cursor={"since": stamp(newest), "had": ended})

    async def count(api: Api, partition: Partition, window: Window) -> Estimate | None:
        found = await _count(api, partition, path, {**params, "since": stamp(window.since)})
        if found and window.until < datetime.now(UTC) - timedelta(minutes=10):
            later = await _count(api, partition, path, {**params, "since": stamp(window.until)})
            found = None if later is None else max(found - later, 0)
        if found is None and path == "/issues":
            found = await _found(api, partition, window, "issue") + await _found(api, partition, window, "pr")
        return None if found is None else Estimate(found, exact=True)

    return Stream(
        name, label, WindowKind.LOWER_BOUND, fetch, extract, count, partitioned=True, needs=("repo",), record=_UPDATED,
        gone=_gone(path),
    )  # fmt: skip


def _gone(path: str) -> FindGone:
    """Asks for one after the other. Where this access reads the repository, 410 means deleted, 404 deleted or moved to where it does not
    read, and what has another id has been moved to another repository.

    Without a right, or with issues switched off, all of them are answered so: what else is in the list tells.
    """

    async def gone(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
        full_name, missing = partition.facts["full_name"], []
        for record in records:
            own = record.payload["number" if path in ("/issues", "/pulls") else "id"]
            try:
                there = (await api.get(f"/repos/{full_name}{path}/{own}")).data
            except (Gone, NotFound):
                missing.append(record.external_id)
            except AccessDenied:
                continue  # it is there, and not for us
            else:
                if str(there["id"]) != record.external_id:
                    missing.append(record.external_id)
        return missing if missing and await _is_read(api, partition, path) else []

    return gone


async def _is_read(api: Api, partition: Partition, path: str) -> bool:
    """Whether the repository's list is shown to us; under its name there may be another one by now."""
    address = f"/repos/{partition.facts['full_name']}"
    try:
        repository = (await api.get(address)).data
        await api.get(f"{address}{path}", {"per_page": 1, "state": "all"})
    except (Gone, NotFound):
        return False
    return str(repository["id"]) == partition.key and (repository["has_issues"] is True or path.startswith("/pulls"))


async def _count(api: Api, partition: Partition, path: str, params: JSON) -> int | None:
    """One row a page: the last page's number is the count. None where GitHub names no last page."""
    try:
        return last_page(await api.get(f"/repos/{partition.facts['full_name']}{path}", {**params, "per_page": 1}))
    except Gone:
        return 0


async def _fetch_pulls(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Newest update first, down to the window's beginning: a row touched meanwhile comes twice, none is missed."""
    params = {"state": "all", "sort": "updated", "direction": "desc"}
    rows, following = await _list(api, partition, "/pulls", params, cursor)
    found = page(rows, _UPDATED, following, min)
    is_over = found.position is not None and found.position < window.since
    return found._replace(next_cursor=None) if is_over else found


async def _found(api: Api, partition: Partition, window: Window, kind: str) -> int:
    """How many the search finds, which has a limit of its own. Some tokens may search for one kind at a time only."""
    span = f"{stamp(window.since)}..{stamp(last(window.until))}"  # both ends are included
    query = f"repo:{partition.facts['full_name']} is:{kind} updated:{span}"
    return int((await api.get("/search/issues", {"q": query, "per_page": 1})).data["total_count"])


async def _count_pulls(api: Api, partition: Partition, window: Window) -> Estimate | None:
    return Estimate(await _found(api, partition, window, "pr"), exact=True)


def _span(window: Window) -> JSON:
    """Both ends are included."""
    return {"since": stamp(window.since), "until": stamp(last(window.until))}


async def _fetch_commits(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """A fork has the commits of what it is a fork of, so each is a record of its repository."""
    rows, following = await _list(api, partition, "/commits", _span(window), cursor)
    read = reader(lambda row: f"{partition.key}:{row['sha']}", lambda row: utc(row["commit"]["committer"]["date"]))
    return page(rows, read, following)


async def _count_commits(api: Api, partition: Partition, window: Window) -> Estimate | None:
    found = await _count(api, partition, "/commits", _span(window))
    return None if found is None else Estimate(found, exact=True)


async def _list_repositories(api: Api, cursor: JSON | None) -> Reply:
    return await (api.get(cursor["url"]) if cursor else api.get("/user/repos", {**_REPOSITORIES, "per_page": 100}))


async def _repositories(api: Api, cursor: JSON | None) -> Rows:
    return _rows(await _list_repositories(api, cursor))


async def _partitions(api: Api) -> list[Partition]:
    """An organization that asks for single sign-on, and whose this access has not been through, is missing in the list. That is no
    failure: somebody may be in one that has nothing to do with the company."""
    missing: list[str] = []

    async def listed(cursor: JSON | None) -> Rows:
        reply = await _list_repositories(api, cursor)
        told = _MISSING.match(reply.headers.get("x-github-sso", ""))
        missing.extend(number for number in (told[1].split(",") if told else ()) if number not in missing)
        return _rows(reply)

    rows = {str(row["id"]): row["full_name"] for row in await all_rows(listed, api.longest_wait)}
    api.notices = []
    if missing:
        named = [await _organization(api, number) for number in missing[:MOST_NAMED]]
        named += [f"{len(missing) - MOST_NAMED} more"] if len(missing) > MOST_NAMED else []
        api.notices.append(
            f"GitHub lists nothing of {', '.join(named)}, where it asks for single sign-on: authorise this connection for it on GitHub"
        )
    return [Partition(key, name, {"full_name": name}) for key, name in rows.items()]


async def _organization(api: Api, number: str) -> str:
    """The organization's name; its number where GitHub does not tell that."""
    try:
        rows = (await api.get("/organizations", {"since": int(number) - 1, "per_page": 1})).data
        return next((str(row["login"]) for row in rows if str(row["id"]) == number), number)
    except (ProviderError, *UNMAPPABLE):
        return number


# -- records to graph ---------------------------------------------------------------------------------------------------------


# The same few people, labels and milestones come again and again.


def _user(user: JSON | None, ns: str) -> Entity | None:
    return _account(user["id"], user["login"], user.get("type") or "User", ns) if user else None


@lru_cache(maxsize=4096)
def _account(number: int, login: str, what: str, ns: str) -> Entity:
    kind = {"Organization": "organization", "Bot": "bot"}.get(what, "person")
    key = f"{ns}:{'org' if kind == 'organization' else 'user'}:{number}"
    return Entity(kind, key, login, None, (), (f"{ns}:login:{login.lower()}",))


def _mentions(text: str | None, context: Context) -> list[str]:
    """What the text mentions: #numbers and addresses of the same repository, commits, @logins, e-mail addresses. Code is not text."""
    keys: list[str] = []
    if text and ("#" in text or "@" in text or "://" in text):
        text = _CODE.sub(" ", text) if "`" in text else text
        keys += [_issue_key(int(match), context) for match in _NUMBER.findall(text)[:MOST_MENTIONS]]
        if "@" in text:
            keys += [f"{context.namespace}:login:{m.lower()}" for m in _LOGIN.findall(text)[:MOST_MENTIONS]]
            keys += mentioned_emails(text)
        if "://" in text:
            keys += _addressed(text, context)
    return keys


def _addressed(text: str, context: Context) -> list[str]:
    """By address: commits, and issues of the same repository. Which number another repository has, no address says."""
    ns, own = context.namespace, context.partition.label.lower()
    host = ns.partition("@")[2] or "github.com"
    found = [match for match in _ADDRESS.findall(text)[:MOST_MENTIONS] if match[0] == host]
    keys = [f"{ns}:commit:{sha}" for _, _, _, sha in found if sha]
    return keys + [_issue_key(number, context) for _, name, number, _ in found if number and name.lower() == own]


def _issue_key(number: object, context: Context) -> str:
    return f"{context.namespace}:issue:{context.partition.key}#{number}"


@lru_cache(maxsize=4096)
def _part(kind: str, key: str, name: str) -> Entity:
    return Entity(kind, key, name)


def _repository(context: Context) -> Entity:
    return _part("repository", f"{context.namespace}:repository:{context.partition.key}", context.partition.label)


def _extract_issue(row: JSON, context: Context) -> Graph:
    if not row.get("pull_request"):
        return _issue(row, context, "issue", {})
    said = _issue(row, context, "pull_request", {})
    said.later = -1  # the pull request's own row, of the same time, says more
    return said


def _extract_pull(row: JSON, context: Context) -> Graph:
    more = {"from": row["head"]["ref"], "into": row["base"]["ref"]}
    more |= {"merged_at": row.get("merged_at"), "draft": row.get("draft")}
    return _issue(row, context, "pull_request", more)


def _issue(row: JSON, context: Context, kind: str, more: JSON) -> Graph:
    ns, repo, number = context.namespace, context.partition.key, row["number"]
    known = {"number": number, "state": row["state"], "url": row.get("html_url"), **more}
    said = Graph(Entity(kind, _issue_key(number, context), row["title"] or f"#{number}", known))
    said.to("part_of", _repository(context))
    said.by("authored", _user(row.get("user"), ns))
    assignees = row["assignees"] if row.get("assignees") is not None else [row.get("assignee")]
    said.to("assigned_to", *[_user(assignee, ns) for assignee in assignees])
    for label in row.get("labels") or ():
        name = label["name"] if isinstance(label, dict) else label
        said.to("labelled", _part("label", f"{ns}:label:{repo}:{name}", name))
    if milestone := row.get("milestone"):
        key = f"{ns}:milestone:{repo}#{milestone['number']}"
        said.to("in_milestone", _part("milestone", key, milestone["title"]))
    said.refer("mentions", _mentions(row.get("body"), context))
    return said


def _extract_comment(row: JSON, context: Context) -> Graph:
    about = row.get("issue_url") or row.get("pull_request_url")
    if not about:
        raise RecordRejected("the comment does not say what it is on")
    name = headline(row.get("body"), "(empty comment)")
    # Comments on a diff are numbered by themselves.
    key = f"{context.namespace}:{'comment' if row.get('issue_url') else 'review_comment'}:{row['id']}"
    said = Graph(Entity("message", key, name, {"url": row.get("html_url")}))
    said.refer("comment_on", [_issue_key(about.rsplit("/", 1)[-1], context)])
    said.by("authored", _user(row.get("user"), context.namespace))
    said.refer("mentions", _mentions(row.get("body"), context))
    return said


def _extract_commit(row: JSON, context: Context) -> Graph:
    ns, commit = context.namespace, row["commit"]
    name = headline(commit.get("message"), row["sha"][:10], 200)
    known = {"sha": row["sha"], "url": row.get("html_url")}
    said = Graph(Entity("commit", f"{ns}:commit:{row['sha']}", name, known))
    said.to("part_of", _repository(context))
    signed = commit.get("author") or {}
    address, account = email_key(signed.get("email")), _user(row.get("author"), ns)
    if account is not None and account.kind == "bot":
        pass  # what signs as it is not somebody's address
    elif address is not None and account is not None:
        # GitHub itself matched the address to the account, so both are one person.
        named = signed.get("name") or account.name
        account = Entity(account.kind, address, named, None, (account.key,), account.handles)
    elif address is not None:
        account = Entity("person", address, signed.get("name") or address.rpartition(":")[2])
    said.by("authored", account)
    said.refer("mentions", _mentions(commit.get("message"), context))
    return said


def _extract_repository(row: JSON, context: Context) -> Graph:
    known = {name: row.get(name) for name in ("description", "private", "archived", "default_branch")}
    key = f"{context.namespace}:repository:{row['id']}"
    known["url"] = row.get("html_url")
    handle = _named(context.namespace, row["full_name"])
    said = Graph(Entity("repository", key, row["full_name"], known, (), (handle,)))
    said.to("owned_by", _user(row.get("owner"), context.namespace))
    return said


# -- addresses ----------------------------------------------------------------------------------------------------------------

# Keys hold a repository's id, which stays when it is renamed; addresses hold its name, in whatever case. A repository's own record
# says which name leads to it, so that no issue has to say by which address it goes.

_NAME = r"([\w-]{1,39}/[\w.-]{0,99}[\w-])"
_ENDS = r"(?![\w-]|[./]+[\w-])"  # neither in the middle of a name nor on the way to something further in


def _named(ns: str, full_name: str) -> str:
    return f"{ns}:named:{full_name.lower().removesuffix('.git')}"


def _located(address: str, container: str) -> str | None:
    ns, is_repository, key = container.partition(":repository:")
    return f"{ns}:issue:{key}#{address.rpartition('#')[2]}" if is_repository else None


_LINKS = (
    Link(
        "github.com",
        _NAME + r"/(?:issues|pull)/([1-9]\d{0,8})\b",
        lambda match: f"github:address:{match[1].lower()}#{match[2]}",
        lambda match: _named("github", match[1]),
    ),
    Link("github.com", _NAME + r"/(?:pull/\d+/)?commits?/([0-9a-f]{40})\b", lambda match: f"github:commit:{match[2]}"),
    Link("github.com", _NAME + _ENDS, lambda match: _named("github", match[1])),
    Link("github.com", r"([A-Za-z0-9][A-Za-z0-9-]{0,38})" + _ENDS, lambda match: f"github:login:{match[1].lower()}"),
)


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/user")
    granted = reply.headers.get("x-oauth-scopes")
    scopes = None if granted is None else tuple(scope.strip() for scope in granted.split(",") if scope.strip())
    return Account(str(reply.data["id"]), str(reply.data["login"]), scopes, expires_at=_token_end(reply))


def _token_end(reply: Reply) -> datetime | None:
    """When a personal token ends: "2026-12-31 23:00:00 UTC" or "... +0200"."""
    told = reply.headers.get("github-authentication-token-expiration", "").replace("UTC", "+0000")
    try:
        return datetime.strptime(told, "%Y-%m-%d %H:%M:%S %z").astimezone(UTC)
    except ValueError:
        return None


async def _revoke(grant: Revocation) -> None:
    """Ends this token: `/grant` in its place would end every token that the person ever gave the app."""
    client, path = (grant.client_id, grant.client_secret), f"/applications/{grant.client_id}/token"
    await grant.api.request("DELETE", path, json={"access_token": grant.access_token}, auth=client)


_BACKWARDS = partial(Stream, ascending=False, partitioned=True, needs=("repo",))

GITHUB = Provider(
    slug="github",
    links=_LINKS,
    located=_located,
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
    # Reading costs one of 900 points a minute; a server of one's own has no limits unless its administrator sets some.
    budget=RateBudget(requests=5000, seconds=3600, concurrency=16, a_minute=900),
    oauth=OAuth("/login/oauth/authorize", "/login/oauth/access_token", ("repo",), revoke=_revoke),
    token_help="A personal access token with the scope repo (or a fine-grained one with read access to contents, issues, metadata "
    "and pull requests).",
    self_hosted=True,
    streams=(
        Stream(
            "repositories", "Repositories", WindowKind.SNAPSHOT, listing(_repositories, _CHANGED), _extract_repository, names_partitions=True,
            record=_CHANGED,
        ),
        _since("/issues", "issues", "Issues", _extract_issue),
        _BACKWARDS(
            "pull_requests", "Pull requests", WindowKind.SCAN, _fetch_pulls, _extract_pull, _count_pulls,
            record=_UPDATED, gone=_gone("/pulls"),
        ),
        _since("/issues/comments", "comments", "Comments", _extract_comment),
        _since("/pulls/comments", "review_comments", "Review comments", _extract_comment),
        _BACKWARDS(
            "commits", "Commits", WindowKind.EXACT, _fetch_commits, _extract_commit, _count_commits, clock=Clock.EVENT,
        ),
    ),
)  # fmt: skip
