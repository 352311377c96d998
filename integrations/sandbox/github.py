"""GitHub's REST API and OAuth, as far as a history import goes."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from integrations.sandbox.github_rows import ACCOUNTS, REPOSITORIES, Repository, Rows, account_user
from integrations.sandbox.stand_in import JSON, Grants, StandIn
from integrations.sandbox.wire import Request, Response, whole
from integrations.sandbox.world import World, seconds_of

SCOPES = ("repo",)
MOST_FOUND = 1000  # that a search shows, however many it counts
DOCS = "https://docs.github.com/rest"
BAD_CREDENTIALS = Response(401, {"message": "Bad credentials", "documentation_url": DOCS, "status": "401"})
NOT_FOUND = Response(404, {"message": "Not Found", "documentation_url": DOCS, "status": "404"})
INVALID = Response(422, {"message": "Validation Failed", "documentation_url": DOCS, "status": "422"})
PATHS = {
    "/user/repos": "repositories",
    "/issues/comments": "comments",
    "/pulls/comments": "review_comments",
    "/issues": "issues",
    "/pulls": "pull_requests",
    "/commits": "commits",
}
# An organization whose repositories are nobody's business here; the switch `deny` has it ask for single sign-on.
GUILD = {"login": "contoso-guild", "id": 9_100_000, "node_id": "O_9100000", "description": None}
_REPOSITORY = re.compile(r"/(?:repos/([\w.-]+)/([\w.-]+)|repositories/([0-9]+))(/.*)?", re.ASCII)
_ONE = re.compile(r"/(issues|pulls)/([0-9]{1,9})")
_COMMENT = re.compile(r"/(issues|pulls)/comments/([0-9]{1,15})")
DELETED = Response(410, {"message": "This issue was deleted", "documentation_url": DOCS, "status": "410"})


class GitHub(StandIn):
    """The stand-in."""

    slug = "github"
    name = "GitHub"
    prefix = "gho_"
    pasted_prefix = "ghp_"
    accounts = ACCOUNTS
    streams = ("repositories", "issues", "pull_requests", "comments", "review_comments", "commits")
    places = ("contoso-guild",)
    grants = Grants(
        "/login/oauth/authorize",
        "/login/oauth/access_token",
        "/applications/sandbox-github/token",
        refreshes=False,
        scopes=SCOPES,
        separator=",",
    )

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.used: dict[str, tuple[int, int]] = {}  # account -> (window, calls in it)
        self.repositories: dict[str, list[Repository]] = {
            account: []
            if self.is_empty(account)
            else [Repository(world, account, i, name, share) for i, (name, share) in enumerate(REPOSITORIES)]
            for account in ACCOUNTS
        }

    def reset(self) -> None:
        self.used.clear()

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        return Response(200, {**answer, "token_type": "bearer"})

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        # As the real one: errors come with status 200, too.
        own = {"invalid_client": "incorrect_client_credentials", "invalid_grant": "bad_verification_code"}
        return Response(200, {"error": own.get(error, error), "error_description": words})

    def oauth(self, request: Request) -> Response | None:
        answer = super().oauth(request)
        if answer is None or request.path != self.grants.token or "json" in request.headers.get("accept", ""):
            return answer
        # A form, unless JSON is asked for.
        return Response(200, urlencode(answer.body).encode(), {"Content-Type": "application/x-www-form-urlencoded"})

    def revoked(self, request: Request) -> Response:
        if request.method != "DELETE" or request.basic != ("sandbox-github", "sandbox-secret"):
            return NOT_FOUND
        given = request.json.get("access_token") if isinstance(request.json, dict) else None
        return Response(204) if self.take_back(given) else INVALID

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        return BAD_CREDENTIALS

    def forbidden(self, request: Request, stream: str) -> Response:
        words = "Resource not accessible by personal access token"
        return Response(403, {"message": words, "documentation_url": DOCS, "status": "403"})

    def not_found(self, request: Request) -> Response:
        return NOT_FOUND

    def rate_limited(self) -> Response:
        """The reply to a client that must wait `retry_after` seconds."""
        retry = self.control.faults.retry_after
        return self._too_many(int(time.time()) + retry).with_headers({"Retry-After": str(retry)})

    def _too_many(self, reset: int) -> Response:
        limit = str(self.control.faults.rate_limit)
        return Response(
            403,
            {"message": "API rate limit exceeded for user ID 583231.", "documentation_url": DOCS, "status": "403"},
            {
                "X-RateLimit-Limit": limit,
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Used": limit,
                "X-RateLimit-Reset": str(reset),
                "X-RateLimit-Resource": "core",
            },
        )

    def api(self, request: Request) -> Response:
        account = self.account_of(request)
        if account is None:
            return self.unauthorized(request)
        limit, window = self.control.faults.rate_limit, max(1, self.control.faults.rate_window)
        turn = int(time.time()) // window
        at, used = self.used.get(account, (turn, 0))
        used = used + 1 if at == turn else 1
        if used > limit:
            return self._too_many((turn + 1) * window)
        self.used[account] = (turn, used)
        response = self.answer(request, account) if request.method == "GET" else NOT_FOUND
        return response.with_headers(
            {
                "X-RateLimit-Limit": str(limit),
                "X-RateLimit-Remaining": str(limit - used),
                "X-RateLimit-Used": str(used),
                "X-RateLimit-Reset": str((turn + 1) * window),
                "X-RateLimit-Resource": "core",
                "X-OAuth-Scopes": ", ".join(SCOPES),
            }
        )

    def answer(self, request: Request, account: str) -> Response:
        path, query, own = request.path, request.query, self.repositories[account]
        stream = next((name for ending, name in PATHS.items() if path.endswith(ending)), "")
        if stream and self.denies(stream):
            return self.forbidden(request, stream)
        if path == "/user":
            name = account.replace("-", " ").title()
            return Response(200, {**account_user(account), "type": "User", "name": name, "email": None})
        if path == "/user/repos":
            return self._repositories(request, own)
        if path == "/organizations":
            since = whole(query.get("since"), 0, 0, 10**9)
            return Response(200, [GUILD] if since < int(str(GUILD["id"])) else [])
        if path == "/search/issues":
            return self._search(request, own, query.get("q", ""))
        match = _REPOSITORY.fullmatch(path)
        if match is None:
            return NOT_FOUND
        full_name, number, rest = f"{match[1]}/{match[2]}".lower(), match[3], match[4] or ""
        repository = next(
            (r for r in own if (str(r.id) == number if number else r.full_name.lower() == full_name)), None
        )
        if repository is None:
            return NOT_FOUND
        if not rest:
            return Response(200, repository.row(request.base))
        return self._below(request, repository, rest)

    def _below(self, request: Request, repository: Repository, rest: str) -> Response:
        if rest.startswith("/issues") and not repository.has_issues:
            return Response(410, {"message": "Issues are disabled for this repo", "documentation_url": DOCS})
        if rest == "/issues":
            return self._list(request, repository, rest, repository.issues, repository.issue, by_state=True)
        if rest == "/pulls":
            return self._list(request, repository, rest, repository.pulls, repository.pull, by_state=True, since=False)
        if rest == "/issues/comments":
            return self._list(request, repository, rest, repository.comments, repository.comment)
        if rest == "/pulls/comments":
            return self._list(request, repository, rest, repository.review_comments, repository.review_comment)
        if rest == "/commits":
            return self._commits(request, repository, rest)
        one = _ONE.fullmatch(rest)
        if one is not None and 1 <= int(one[2]) <= len(repository.created):
            row = int(one[2])
            if self.is_deleted(row):
                return DELETED if one[1] == "issues" else NOT_FOUND
            if one[1] == "issues" or repository.is_pull(row):
                render = repository.issue if one[1] == "issues" else repository.pull
                return Response(200, render(row, request.base))
        comment = _COMMENT.fullmatch(rest)
        if comment is not None:
            on_issues, number = comment[1] == "issues", int(comment[2])
            rows = repository.comments if on_issues else repository.review_comments
            place = number - (repository.comment_id(0) if on_issues else repository.review_id(0))
            if 1 <= place <= len(rows) and not self.is_deleted(place):
                row_of = repository.comment if on_issues else repository.review_comment
                return Response(200, row_of(place, request.base))
        return NOT_FOUND

    def _repositories(self, request: Request, own: list[Repository]) -> Response:
        sort = request.query.get("sort", "full_name")
        keys: dict[str, Callable[[Repository], Any]] = {
            "full_name": lambda r: r.full_name,
            "created": lambda r: r.id,
            "updated": lambda r: r.pushed,
            "pushed": lambda r: r.pushed,
        }
        direction = request.query.get("direction", "asc" if sort == "full_name" else "desc")
        if sort not in keys or direction not in ("asc", "desc"):
            return INVALID
        rows = sorted(own, key=keys[sort], reverse=direction == "desc")
        answer = self._page(request, request.path, range(len(rows)), lambda i, api: rows[i].row(api))
        left_out = (
            {"X-GitHub-SSO": f"partial-results; organizations={GUILD['id']}"} if self.denies("contoso-guild") else {}
        )
        return answer.with_headers(left_out)

    def _list(
        self,
        request: Request,
        repository: Repository,
        rest: str,
        rows: Rows,
        render: Callable[[int, str], Any],
        *,
        by_state: bool = False,
        since: bool = True,
    ) -> Response:
        """A list as GitHub sorts it: issues newest first, pulls so only by time of creation, comments oldest first."""
        query = request.query
        sort, direction = query.get("sort", "created"), query.get("direction", "")
        state = query.get("state", "open") if by_state else "all"
        if sort not in ("created", "updated", "comments", "popularity", "long-running"):
            return INVALID
        if direction not in ("", "asc", "desc") or state not in ("open", "closed", "all"):
            return INVALID
        if since and query.get("since"):
            after = seconds_of(query["since"])
            if after is None:
                return INVALID
            rows = rows[bisect_left(rows, (after, 0)) :]
        numbers = [number for _, number in rows if state == "all" or repository.state(number) == state]
        numbers = [number for number in numbers if not self.is_deleted(number)]
        if sort != "updated":
            numbers.sort()
        if not by_state:
            descending = direction == "desc" and "sort" in query
        else:
            descending = (direction or ("desc" if since or sort == "created" else "asc")) == "desc"
        path = f"/repositories/{repository.id}{rest}"
        return self._page(request, path, numbers[::-1] if descending else numbers, render, by_cursor=rest == "/issues")

    def _commits(self, request: Request, repository: Repository, rest: str) -> Response:
        if repository.is_empty:
            return Response(409, {"message": "Git Repository is empty.", "documentation_url": DOCS, "status": "409"})
        rows, query = repository.commits, request.query
        low, high = 0, len(rows)
        for name in ("since", "until"):
            if not query.get(name):
                continue
            moment = seconds_of(query[name])
            if moment is None:
                return INVALID
            if name == "since":
                low = bisect_left(rows, (moment, 0))
            else:
                high = bisect_right(rows, (moment, len(rows)))
        # A commit's index is its place in time, from 1.
        newest_first = [index for index in range(high, low, -1) if not self.is_deleted(index)]
        return self._page(request, f"/repositories/{repository.id}{rest}", newest_first, repository.commit)

    def _page(
        self,
        request: Request,
        path: str,
        rows: Sequence[int],
        render: Callable[[int, str], Any],
        *,
        by_cursor: bool = False,
    ) -> Response:
        """by_cursor: as lists that may be very long, whose links lead on only, and know no last page."""
        size, page = (
            self.page_size(request.query.get("per_page"), 30, 100),
            whole(request.query.get("page"), 1, 1, 10**6),
        )
        pages = max(1, -(-len(rows) // size))
        around = [("prev", page - 1)] if page > 1 else []
        around += [("next", page + 1), ("last", pages)] if page < pages else []
        around += [("first", 1)] if page > 1 else []
        cursor = {"after": b64encode(f"cursor:v2:{page * size}".encode()).decode()} if by_cursor else {}
        links = ", ".join(
            f'<{request.base}{path}?{urlencode({**request.query, **cursor, "page": str(number)})}>; rel="{rel}"'
            for rel, number in around
            if rel == "next" or not by_cursor
        )
        body = [render(row, request.base) for row in rows[(page - 1) * size : page * size]]
        return Response(200, body, {"Link": links} if links else {})

    def _search(self, request: Request, own: list[Repository], text: str) -> Response:
        """repo:owner/name with is:issue or is:pr, is:open or is:closed, and updated:FROM..TO, both ends included."""
        terms = [term.split(":", 1) for term in text.split() if ":" in term]
        kinds = {value for name, value in terms if name in ("is", "type")}
        named = dict(terms)
        repository = next((r for r in own if r.full_name.lower() == named.get("repo", "").lower()), None)
        if repository is None or not kinds & {"issue", "pr", "pull-request"}:
            return INVALID
        span = _span(named.get("updated", "*..*"))
        if span is None:
            return INVALID
        pulls = "issue" not in kinds
        rows = repository.pulls if pulls else repository.issues
        found = [
            number
            for _, number in rows[bisect_left(rows, (span[0], 0)) : bisect_right(rows, (span[1], len(rows) + 10**9))]
            if (pulls or not repository.is_pull(number)) and not self.is_deleted(number)
        ]
        for state in kinds & {"open", "closed"}:
            found = [number for number in found if repository.state(number) == state]
        page = self._page(request, request.path, found[: self.cap(MOST_FOUND)], repository.issue)
        body = {"total_count": len(found), "incomplete_results": False, "items": page.body}
        return Response(200, body, page.headers)

    def truth_ids(self, account: str, stream: str, since: float | None, until: float | None) -> list[str]:
        own = self.repositories[account]
        if stream == "repositories":  # which have no window
            return [str(repository.id) for repository in own]
        found = []
        for repository in own:
            rows, id_of = repository.stream(stream)
            low = 0 if since is None else bisect_left(rows, (since, 0))
            high = len(rows) if until is None else bisect_left(rows, (until, 0))
            found += [str(id_of(index)) for _, index in rows[low:high] if not self.is_deleted(index)]
        return found


def _span(text: str) -> tuple[float, float] | None:
    """Both ends, included, of FROM..TO, >=FROM, >FROM, <=TO, <TO or one moment. A day counts whole; * is no end."""
    low, dots, high = text.partition("..")
    sign = re.match(r"[<>]=?", text)
    if sign is not None:
        value = text[sign.end() :]
        low, high = (value, "*") if sign[0].startswith(">") else ("*", value)
    elif not dots:
        high = low
    begin, end = (0.0 if low == "*" else seconds_of(low)), (1e12 if high == "*" else seconds_of(high))
    if begin is None or end is None:
        return None
    day = 86_399
    if sign is not None and sign[0] == ">":
        return begin + 1 + (0 if "T" in low else day), end
    if sign is not None and sign[0] == "<":
        return begin, end - 1
    return begin, end + (0 if high == "*" or "T" in high else day)
