"""The interface a provider implements: data and plain functions, no base class, no models.

A provider is a `Provider` value in its own file. The engine calls its streams' `fetch` with an `Api` (the HTTP gate,
bound to one connection), one `Partition` and one `Window`, page after page, and hands each record's payload to the stream's
`extract`. Nothing here knows about jobs, tenants or the database.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from integrations.errors import ProviderError
    from integrations.http import Api, Reply

JSON = dict[str, Any]
ONE_PAGE = 1_000_000


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of time, [since, until), both aware UTC."""

    since: datetime
    until: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.since <= moment < self.until


class WindowKind(StrEnum):
    """What a stream's API can filter by, which decides how planning cuts it into chunks."""

    EXACT = "exact"  # both bounds on the server: any number of windows
    LOWER_BOUND = "lower_bound"  # only `since`, rows ascending: any number of windows, each stops at its `until`
    DAY = (
        "day"  # both bounds, but only as whole days of UTC: as EXACT, cut at midnights so that no row is fetched twice
    )
    SCAN = "scan"  # no filter, rows newest first: one chunk for the whole range, stops at its `since`
    SNAPSHOT = "snapshot"  # no time at all: everything, once a job; records are not filtered by time


class Clock(StrEnum):
    """Which time of a row a stream's window is on, and so what a later import of the same span would miss."""

    UPDATED = "updated"  # the last change: an incremental import brings what changed
    CREATED = "created"  # when it came to be: later changes of a row are seen only by importing its span again
    EVENT = "event"  # when it takes place (a meeting), which may be in the future, or long before it is told (a commit)


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a stream that the provider lists on its own (a repository, a channel). `key` is the provider's stable id.

    Streams without partitions get `WHOLE`. `facts` holds what fetch and extract need (a repository's full name).
    """

    key: str = ""
    label: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


WHOLE = Partition()


class Record(NamedTuple):
    """One row of a page. `occurred_at`: aware UTC, the time that the stream's window is on. `payload`: as received."""

    external_id: str
    occurred_at: datetime
    payload: JSON


class Page(NamedTuple):
    """What one request brought.

    next_cursor: JSON to pass to the next fetch, None at the end of the window. It must survive a restart of the process, and
        no cursor comes twice in a window: that is taken for a provider that goes in circles. A thousand pages in a row that bring
        nothing new and come no further are taken for one that sends them without end.
    looked_into: id of the thing that the page looked into for its rows, where thousands are gone through and few have any: each is
        something new.
    position: how far in time every earlier row of the window has been read; where the window goes on if the cursor dies
        (ascending streams: restart with since=position; descending: until=position). None: unknown, restart the window.
    rejected: rows that could not be turned into a Record at all: (external_id or "", payload, reason).
    """

    records: Sequence[Record]
    next_cursor: JSON | None
    position: datetime | None = None
    rejected: Sequence[tuple[str, Any, str]] = ()
    looked_into: str = ""


class Estimate(NamedTuple):
    """How many records a window holds. `exact`: the provider counted the same filter; otherwise about."""

    records: int
    exact: bool


class Entity(NamedTuple):
    """A node of the graph as one record tells it.

    key: the strongest verified key, namespaced ("person:email:jane@acme.com", "github:issue:77#42"); unique in the tenant.
    properties: a dict when this record is the entity's own record, None when it is only mentioned (a stub; never
        overwrites what is known).
    aliases: other verified keys of the same thing, in any provider ("salesforce:contact:003..."): whoever refers to
        one of them means this entity, and entities that share one are one.
    handles: names by which others may mention it and which can change hands (a login): they lead here, but prove nothing. A
        handle is nobody's key or alias.
    """

    kind: str
    key: str
    name: str
    properties: JSON | None = None
    aliases: tuple[str, ...] = ()
    handles: tuple[str, ...] = ()


class Relationship(NamedTuple):
    """A statement of one record: `source` kind `target`; both are entity keys (or aliases), which may not have arrived yet."""

    kind: str
    source: str
    target: str


@dataclass(init=False, slots=True)
class Graph:
    """What a record says, begun with its own entity: of whom it speaks, and how its own entity relates to them.

    own: key of the record's own entity, the first of `entities`. Statements: `kinds` says what, `ends` at the same place the key (or
    alias) of the other end, which may not have arrived yet. "authored": the own entity authored that; "^authored": that authored it.

    later: microseconds by which its word counts as younger than the record's time says (older, if negative), where several records
    of one thing bear one time.
    """

    own: str
    entities: list[Entity]
    kinds: list[str]
    ends: list[str]
    later: int

    def __init__(self, own: Entity) -> None:
        self.own = own.key
        self.entities = [own]
        self.kinds = []
        self.ends = []
        self.later = 0

    def to(self, kind: str, *others: Entity | None) -> None:
        """Own entity `kind` other; None is nobody."""
        for other in others:
            if other is not None and (key := other.key) != self.own:
                self.entities.append(other)
                self.kinds.append(kind)
                self.ends.append(key)

    def by(self, kind: str, *others: Entity | None) -> None:
        """Other `kind` own entity; None is nobody."""
        self.to(f"^{kind}", *others)

    def refer(self, kind: str, keys: Iterable[str]) -> None:
        """Own entity `kind` what has these keys, of which the record knows no more than that."""
        if keys:  # most often there is nothing, and this is part of the hot path
            own = self.entities[0]
            for key in dict.fromkeys(keys):
                if key != own.key and key not in own.aliases and key not in own.handles:
                    self.kinds.append(kind)
                    self.ends.append(key)

    def referred(self, kind: str, keys: Iterable[str]) -> None:
        """What has these keys `kind` own entity."""
        self.refer(f"^{kind}", keys)

    @property
    def relationships(self) -> list[Relationship]:
        """The statements one by one."""
        return [
            Relationship(kind[1:], end, self.own) if kind.startswith("^") else Relationship(kind, self.own, end)
            for kind, end in zip(self.kinds, self.ends, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Context:
    """What extract may know besides the payload.

    namespace: prefix for this provider's keys: its slug, "slug@host" for a self-hosted one, "slug@account" where ids repeat
        from account to account (`Provider.ids_by_account`).
    """

    namespace: str
    partition: Partition = WHOLE

    def key(self, kind: str, own_id: object) -> str:
        """The key of the provider's thing of that kind and id."""
        return f"{self.namespace}:{kind}:{own_id}"

    def keys(self, kind: str, *ids: object) -> list[str]:
        """The keys of those that are given: nobody is null, "" or 0."""
        return [f"{self.namespace}:{kind}:{own_id}" for own_id in ids if own_id]


@dataclass(frozen=True, slots=True)
class Account:
    """Who a grant belongs to, as `identify` found it.

    external_id: stable. scopes: None when the provider does not say (then the token endpoint's word counts).
    facts: what requests need to know of the account (a cloud id, a region's host); goes to `Api.facts` and `api_root`.
    expires_at: when access ends unless somebody renews it, if the provider tells (a personal token's end).
    """

    external_id: str
    label: str
    scopes: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A fact that must be known before connecting (a subdomain). The answer is in `facts` under `name` from then on.

    pattern: a regular expression that the whole answer matches; it goes into a host name or path, so keep it narrow.
    default: the answer of who gives none; None: there must be one.
    """

    name: str
    label: str
    help: str
    pattern: str
    default: str | None = None
    placeholder: str = ""


Fetch = Callable[["Api", Partition, Window, "JSON | None"], Awaitable[Page]]
Count = Callable[["Api", Partition, Window], Awaitable["Estimate | None"]]
Extract = Callable[[JSON, Context], Graph]
FindGone = Callable[["Api", Partition, Sequence[Record]], Awaitable[Iterable[str]]]


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of record of a provider. Functions are plain and module-level; `count` None: the provider can't count.

    ascending: rows come oldest first within a window (decides what `Page.position` means).
    partitioned: fetched once per partition of `Provider.partitions`.
    needs: scopes or permissions in the provider's words, to explain an AccessDenied and to tell what a connection lacks. An
        entry "a|b" is met by either.
    page_size: records that a request brings of a full page, for the estimate of provider calls; ONE_PAGE: the vendor lists all in
        one answer.
    clock: which time of a row the window is on.
    as_read: its rows tell how things are when they are read, by no time of their own, and another stream tells what became of them
        since: whichever is younger counts.
    names_partitions: its records are the partitions themselves (external_id is the key), so a connection that is narrowed to
        some of them brings only these.
    parts_of: keys of the partitions that a row belongs to, for a stream that is not partitioned: a connection that is narrowed
        brings those rows of which one partition is chosen.
    record: a row as `fetch` makes a Record of it, for rows that once had no usable id or time and are tried again after a fix
        without asking the provider; None: those must be fetched again.
    gone: for a provider that does not tell what was deleted. Gets records that are stored and that a full import did not meet, a few at a
        time, and asks for them: the external ids of those that the provider says are there no more. What may be hidden, moved or out
        of order is not among them. AccessDenied: of that partition it can't be told. None: nobody is asked, and all stays as it was.
    shared: what is gone for one account may be there for another, in a record of its own (a mail in several mailboxes, an issue that
        is hidden from some), or there again as it was; its things are there as long as one of these records is.
    """

    name: str
    label: str
    window: WindowKind
    fetch: Fetch
    extract: Extract
    count: Count | None = None
    ascending: bool = True
    partitioned: bool = False
    needs: tuple[str, ...] = ()
    page_size: int = 100
    clock: Clock = Clock.UPDATED
    names_partitions: bool = False
    parts_of: Callable[[JSON], Iterable[str]] | None = None
    as_read: bool = False
    record: Callable[[JSON], Record] | None = None
    gone: FindGone | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class OAuth:
    """OAuth 2 authorization-code facts. Paths are joined to the provider's auth URL (`ATOM_PROVIDER_<SLUG>_AUTH_URL`).

    token_root: where the token endpoint lives when that is not the auth URL's host; an auth URL set for the deployment that leads to
        another host than the vendor's, and the sandbox, hold for both. token_json: it takes a JSON object instead of a form.
        client_basic: the client says who it is by HTTP Basic authentication instead of in the body.
    token_root_of: (token_root, facts) -> the root, where it depends on an answer (a region).
    client_errors: codes by which this token endpoint means the client's own credentials, though others mean the grant by them.
    extra_authorize: goes into the address of the page of consent.
    revoke: ends a grant at the provider; None when the provider has no revocation.
    revokes_all: it ends all that the account ever granted to the client, and not the one grant alone.
    token_facts: picks what a token response says besides tokens (Salesforce's instance_url) for `Connection.facts`.
    secret_as_user: the client's secret is the user name of HTTP Basic authentication, and says it all.
    pkce: whether a challenge and verifier are sent.
    extra_token: goes into every token request (a wanted lifetime).
    token_reply: the token endpoint's JSON in RFC 6749's names: `error` (a word) if it refused, whatever the status;
        `access_token`, `refresh_token`, `expires_in`, `scope` (a text or a list) otherwise. Needed only where the vendor differs.
    grant_errors: error words, besides the usual ones, that mean that the grant is gone and a person must reconnect.
    """

    authorize_path: str
    token_path: str
    scopes: tuple[str, ...]
    scope_separator: str = " "
    extra_authorize: Mapping[str, str] = field(default_factory=dict)
    revoke: Callable[[Revocation], Awaitable[None]] | None = None
    revokes_all: bool = False
    token_facts: Callable[[Mapping[str, Any]], JSON] | None = None
    token_root: str = ""
    token_root_of: Callable[[str, Mapping[str, Any]], str] = lambda token_root, facts: token_root
    token_json: bool = False
    client_basic: bool = False
    secret_as_user: bool = False
    client_errors: frozenset[str] = frozenset()
    pkce: bool = True
    extra_token: Mapping[str, str] = field(default_factory=dict)
    token_reply: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda answer: answer
    grant_errors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Revocation:
    """What `OAuth.revoke` gets: a bare gate client of the API, one of the token endpoint's host, and the facts to revoke with."""

    api: Api
    token_api: Api
    auth_url: str
    api_url: str
    client_id: str
    client_secret: str
    access_token: str
    refresh_token: str


@dataclass(frozen=True, slots=True)
class RateBudget:
    """What a connection may ask of the provider: `requests` in `seconds`, at most `concurrency` at once.

    a_minute: a second limit, on any minute, that no header tells of; it is the vendor's own servers', not of self-hosted ones.
    """

    requests: int
    seconds: float
    concurrency: int
    a_minute: int | None = None


@dataclass(frozen=True, slots=True)
class RateState:
    """What a response's headers said about the budget. `reset_at`: aware UTC."""

    remaining: int
    limit: int | None = None
    reset_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Addresses of a provider's things, by which records of other tools mention them.

    host: a host's name; "*" stands for one label of it. path: a regular expression for what follows "https://host/".
    key: the key or handle of what a match means; one of the address's own where `within` is given.
    within: for things whose keys hold an id that their addresses lack: a handle of what a match lies in (the repository, by its
        name). Once it is known to which key that handle leads, `Provider.located` says which thing is meant.
    """

    host: str
    path: str
    key: Callable[[re.Match[str]], str]
    within: Callable[[re.Match[str]], str] | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """All that Atom knows about one provider.

    category, summary, brings: for its card on the integrations page. shows: of what is one person's own, what others of the workspace
        see, in one sentence for who connects or imports it; "" where nothing is.
    api_url: root for relative paths; a connection's base_url or facts may override it through `api_root`.
    api_root: (default_api_url, facts) -> root, for providers that hand out a per-account host; must refuse foreign hosts.
    headers: go with every request. auth_header: token -> headers that authorise a request.
    classify: reads a non-2xx reply (or a 2xx that is an error in disguise) and returns the error it means; None: ask the gate's
        defaults (401 reauth, 403/404 access denied, 429 throttled, 5xx unavailable, other 4xx rejected).
    expired: True when a reply's error is one that a token refresh may cure (tried once per request).
    rate_state: what a reply's headers say of the budget, None if nothing. budget: what holds until they say it.
    identify: who the token belongs to; also verifies it. Raises ReauthRequired for a bad token.
    partitions: everything the partitioned streams are listed by; None when no stream is.
    self_hosted: companies run servers of it, too, so that an address can be given with a token.
    token_site: an example of the site's address that a pasted token needs; "": only a self-hosted server's is asked for.
    token_help: words for the form where a personal or service token can be pasted; None: OAuth only.
    settle: how far behind now the newest window ends, because the provider's lists lag.
    partition_label: what the partitions are called, in the plural ("Repositories"), for the choice of what to import.
    asks: facts that are asked before connecting, by OAuth or token.
    auth_root: (default_auth_url, facts) -> root of the OAuth paths, where it depends on an answer.
    links: addresses of its things.
    located: (an address's own key, key of what it lies in) -> key or handle of what the address means, None if it means nothing;
        needed where a link has `within`.
    ids_by_account: ids are unique within one account only, so that keys carry the account's id besides the slug.
    patience: seconds that it may think before it answers, if more than `transport.READ_TIMEOUT`.
    path_roots: beginning of a path -> root, for APIs of one vendor that live on several hosts; holds while `api_url` does.
    """

    slug: str
    name: str
    category: str
    summary: str
    brings: tuple[str, ...]
    api_url: str
    auth_url: str
    streams: tuple[Stream, ...]
    identify: Callable[[Api], Awaitable[Account]]
    budget: RateBudget
    oauth: OAuth | None = None
    token_help: str | None = None
    self_hosted: bool = False
    token_site: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    auth_header: Callable[[str], Mapping[str, str]] = lambda token: {"Authorization": f"Bearer {token}"}
    api_root: Callable[[str, Mapping[str, Any]], str] = lambda api_url, facts: api_url
    classify: Callable[[Reply], ProviderError | None] = lambda reply: None
    expired: Callable[[Reply], bool] = lambda reply: reply.status == 401
    rate_state: Callable[[Reply], RateState | None] = lambda reply: None
    partitions: Callable[[Api], Awaitable[list[Partition]]] | None = None
    settle: timedelta = timedelta(0)
    patience: float | None = None
    links: tuple[Link, ...] = ()
    located: Callable[[str, str], str | None] = lambda address, container: None
    ids_by_account: bool = False
    partition_label: str = ""
    asks: tuple[Question, ...] = ()
    auth_root: Callable[[str, Mapping[str, Any]], str] = lambda auth_url, facts: auth_url
    path_roots: Mapping[str, str] = field(default_factory=dict)
    shows: str = ""

    def stream(self, name: str) -> Stream:
        """The stream of that name; KeyError if there is none."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(name)
