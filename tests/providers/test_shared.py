"""What providers share: rows to records, paged lists, error tables, rate headers, and what a record says."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integrations.errors import AccessDenied, CursorExpired, PartlyDenied, RequestRejected, Throttled, Unavailable
from integrations.http import Reply
from integrations.providers import wire
from integrations.providers.base import JSON, Context, Entity, Graph, Page, Partition, RateState, Relationship, Window
from integrations.providers.graph import facts, organization
from integrations.providers.mail import words
from integrations.providers.replies import Means, body, error_in, inner, rate_headers, reset_of
from integrations.providers.text import MOST_TEXT, domain_key, mentioned_emails, one_line
from integrations.providers.wire import (
    EPOCH,
    MILLISECOND,
    all_rows,
    epoch,
    page,
    partitions_in,
    reader,
    records,
    rows_in,
    stamp,
    ticks,
)
from integrations.transport import LONGEST_HEADER

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


def reply(status: int = 200, data: Any = None, **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, data, "", "")


def test_the_beginning_of_a_window_is_rounded_down_and_its_end_up():
    window = Window(EPOCH + timedelta(seconds=5.5), EPOCH + timedelta(seconds=7, milliseconds=1, microseconds=1))
    assert ticks(window) == (5, 8)
    assert ticks(window, MILLISECOND) == (5500, 7002)
    assert ticks(Window(EPOCH, EPOCH + timedelta(seconds=7))) == (0, 7), "a whole second stays as it is"


def test_stamps_are_rounded_down_to_what_the_vendor_keeps():
    moment = NOON + timedelta(microseconds=1_999)
    assert stamp(moment) == "2025-01-02T12:00:00Z"
    assert stamp(moment, "milliseconds") == "2025-01-02T12:00:00.001Z"
    assert stamp(moment.astimezone(datetime.fromisoformat("2025-01-02T12:00:00+05:00").tzinfo)) == stamp(moment)


def test_times_since_1970_lose_nothing():
    assert epoch("1735819200") == epoch(1735819200000, MILLISECOND) == NOON
    with pytest.raises(OverflowError):
        epoch(10**18)


def test_rows_without_a_usable_id_or_time_are_told_apart_and_named_where_they_can_be():
    rows = [{"id": 1, "at": "2025-01-02T12:00:00Z"}, {"id": 2, "at": None}, {"at": "2025-01-02T12:00:00Z"}, "no row"]
    found, rejected = records(rows, reader("id", "at"))
    assert [(record.external_id, record.occurred_at) for record in found] == [("1", NOON)]
    assert [(named, row) for named, row, _ in rejected] == [("2", rows[1]), ("", rows[2]), ("", "no row")]


def test_one_row_is_read_as_a_page_reads_it():
    row = {"gid": 7, "when": {"date": "2025-01-02T12:00:00Z"}}
    read = reader("gid", lambda row: datetime.fromisoformat(row["when"]["date"]))
    assert [read(row)] == page([row], read, None).records
    assert reader()({"id": "x"}).occurred_at == EPOCH


def test_the_position_of_a_page_is_the_time_its_rows_have_reached():
    rows = [{"id": n, "at": (NOON + timedelta(hours=n)).isoformat()} for n in (1, 0, 2)]
    read = reader("id", "at")
    assert page(rows, read, None, max).position == NOON + timedelta(hours=2)
    assert page(rows, read, None, min).position == NOON
    assert page(rows, read, None).position is None
    assert page([], read, {"at": 1}, max) == Page([], {"at": 1}, rejected=[])


async def test_a_list_is_read_to_its_end_through_empty_pages():
    lists: dict[int, list[int]] = {0: [1, 2], 1: [], 2: [3]}

    async def rows_at(cursor: JSON | None) -> tuple[list[Any], JSON | None]:
        at = cursor["at"] if cursor else 0
        return lists[at], {"at": at + 1} if at + 1 in lists else None

    assert await all_rows(rows_at) == [1, 2, 3]
    assert lists[0] == [1, 2], "what was handed out is left as it is"


async def test_a_list_that_comes_back_to_where_it_was_is_an_error():
    async def rows_at(cursor: JSON | None) -> tuple[list[Any], JSON | None]:
        return [1], {"at": ((cursor or {"at": 0})["at"] + 1) % 5}

    with pytest.raises(CursorExpired, match="again and again"):
        await all_rows(rows_at)


@pytest.mark.parametrize(("bound", "most"), [("MOST_PAGES", 20), ("MOST_ROWS", 40), ("MOST_SECONDS", 0.0)])
async def test_a_list_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch, bound: str, most: float):
    monkeypatch.setattr(wire, bound, most)

    async def rows_at(cursor: JSON | None) -> tuple[list[Any], JSON | None]:
        return [1, 2], {"at": (cursor or {"at": 0})["at"] + 1}

    with pytest.raises(RequestRejected, match="no end"):
        await all_rows(rows_at)


class Limited:
    """A list of five pages whose vendor answers so many requests at a time. limits: what it says to one more, one after the other."""

    def __init__(self, at_once: int, *limits: Throttled) -> None:
        self.at_once, self.limits = at_once, list(limits)
        self.answered, self.asked = 0, list[int]()

    async def __call__(self, cursor: JSON | None) -> tuple[list[Any], JSON | None]:
        at = cursor["at"] if cursor else 0
        self.asked.append(at)
        if self.answered == self.at_once and self.limits:
            self.answered = 0
            raise self.limits.pop(0)
        self.answered += 1
        return [at], {"at": at + 1} if at < 4 else None


def limit(seconds: float | None = 0.0, *, daily: bool = False) -> Throttled:
    return Throttled("slow", None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds), daily=daily)


async def test_a_list_that_meets_a_limit_goes_on_at_the_same_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "LEAST_WAIT", timedelta(seconds=0.01))
    monkeypatch.setattr(wire, "DEFAULT_WAIT", timedelta(seconds=0.02))
    rows_at = Limited(1, limit(-1), limit(0.03), limit(None))
    assert await all_rows(rows_at, timedelta(seconds=1)) == [0, 1, 2, 3, 4]
    assert rows_at.asked == [0, 1, 1, 2, 2, 3, 3, 4]


async def test_a_limit_that_is_met_before_the_first_page_is_the_callers():
    """Nothing is lost by beginning anew, and a job that waits says so and frees its worker."""
    rows_at = Limited(0, met := limit(0.01))
    with pytest.raises(Throttled) as caught:
        await all_rows(rows_at, timedelta(seconds=1))
    assert caught.value is met


@pytest.mark.parametrize(
    ("seconds", "daily", "longest"),
    [(0.01, False, timedelta(0)), (600, False, timedelta(minutes=2)), (0.01, True, timedelta(minutes=2))],
    ids=["somebody waits for the list", "long", "daily"],
)
async def test_a_limit_that_lasts_longer_is_raised_at_once(seconds: float, daily: bool, longest: timedelta):
    met = limit(seconds, daily=daily)
    rows_at = Limited(2, met)
    with pytest.raises(Throttled) as caught:
        await all_rows(rows_at, longest)
    assert caught.value is met
    assert rows_at.asked == [0, 1, 2]


async def test_a_limit_that_nothing_comes_through_is_raised_in_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "LEAST_WAIT", timedelta(seconds=0.001))
    limits = [limit() for _ in range(20)]

    async def rows_at(cursor: JSON | None) -> tuple[list[Any], JSON | None]:
        if cursor is not None:
            raise limits.pop()
        return [0], {"at": 1}

    with pytest.raises(Throttled):
        await all_rows(rows_at, timedelta(seconds=1))
    assert len(limits) == 20 - (wire.MOST_WAITS + 1)


async def test_the_time_that_a_list_waits_does_not_make_it_endless(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "MOST_SECONDS", 0.15)
    rows_at = Limited(1, *[limit(0.2) for _ in range(3)])
    assert await all_rows(rows_at, timedelta(seconds=1)) == [0, 1, 2, 3, 4]


class Sites:
    """Three sites with a list of two pages each. refuse: names of those that do not let us read, from now on."""

    def __init__(self, *refuse: str) -> None:
        self.refuse = set(refuse)

    async def places(self) -> list[JSON]:
        return [{"name": name} for name in "abc"]

    async def rows_of(self, place: JSON, at: JSON | None) -> tuple[list[Any], JSON | None]:
        if place["name"] in self.refuse:
            raise AccessDenied(f"not {place['name']}")
        number = at["page"] if at else 1
        return [f"{place['name']}{number}"], {"page": 2} if number == 1 else None

    async def partitions_of(self, place: JSON) -> list[Partition]:
        rows, _ = await self.rows_of(place, None)
        return [Partition(row) for row in rows]

    async def read(self, cursor: JSON | None = None) -> tuple[list[Any], JSON | None, str]:
        """Rows, and where it ended and in which words if it was refused."""
        found: list[Any] = []
        while True:
            try:
                rows, following = await rows_in(self.places, self.rows_of, cursor)
            except AccessDenied as error:
                return found, cursor, str(error)
            found += rows
            if (cursor := following) is None:
                return found, None, ""


async def test_lists_of_several_sites_are_read_one_after_the_other():
    assert await Sites().read() == (["a1", "a2", "b1", "b2", "c1", "c2"], None, "")
    assert await rows_in(Sites().places, Sites().rows_of, {"of a version before": 1}) == await rows_in(
        Sites().places, Sites().rows_of, None
    )


async def test_a_site_that_refuses_its_list_is_asked_again_after_the_others():
    sites = Sites("a", "b")
    found, cursor, words = await sites.read()
    assert (found, words) == (["c1", "c2"], "a: not a b: not b")
    assert (await Sites(*"abc").read())[::2] == ([], "a: not a b: not b c: not c")
    # It goes on with those that refused, once they do no longer.
    sites.refuse = {"a"}
    found, cursor, words = await sites.read(cursor)
    assert (found, words) == (["b1", "b2"], "a: not a")
    sites.refuse = set()
    assert await sites.read(cursor) == (["a1", "a2"], None, "")


async def test_what_the_sites_list_that_do_not_refuse_is_not_lost():
    sites = Sites()
    assert [part.key for part in await partitions_in(await sites.places(), sites.partitions_of)] == ["a1", "b1", "c1"]
    sites.refuse = {"b"}
    with pytest.raises(PartlyDenied, match="b: not b") as caught:
        await partitions_in(await sites.places(), sites.partitions_of)
    assert [part.key for part in caught.value.found] == ["a1", "c1"]
    sites.refuse = set("abc")
    with pytest.raises(AccessDenied, match="a: not a b: not b c: not c") as refused:
        await partitions_in(await sites.places(), sites.partitions_of)
    assert type(refused.value) is AccessDenied


TABLE = {
    403: Means(AccessDenied, "Acme does not let us: {said}"),
    429: Means(Throttled, "Acme asks to slow down.", wait=60),
    503: Means(Unavailable, "Acme is away."),
    "BAD_CURSOR": Means(CursorExpired, "Acme no longer knows the page ({code})."),
}


def test_a_code_says_more_than_a_status():
    error = error_in(TABLE, reply(403), "BAD_CURSOR")
    assert isinstance(error, CursorExpired)
    assert str(error) == "Acme no longer knows the page (BAD_CURSOR)."
    assert isinstance(error_in(TABLE, reply(403), "OTHER"), AccessDenied)
    assert error_in(TABLE, reply(404), "OTHER") is None
    assert isinstance(error_in(TABLE, reply(429), "BAD_CURSOR"), Throttled), "a limit is a limit"


def test_what_a_vendor_says_is_no_template_and_has_an_end():
    said = "{said} {0} {x.__class__} " + "a" * 1000
    assert str(error_in(TABLE, reply(403), said=said)) == f"Acme does not let us: {said[:300]}"


def test_a_time_that_is_named_counts_before_the_one_of_the_table():
    now = datetime.now(UTC)
    for answer, low, high in ((reply(429), 59, 62), (reply(429, retry_after="7"), 6, 9)):
        error = error_in(TABLE, answer)
        assert isinstance(error, Throttled)
        assert error.retry_at is not None
        assert low <= (error.retry_at - now).total_seconds() <= high
    away = error_in(TABLE, reply(503))
    assert isinstance(away, Unavailable)
    assert away.retry_at is None


@pytest.mark.parametrize("data", [None, [], "text", 5, {"errors": None}, {"errors": []}, {"errors": ["word"]}])
def test_errors_of_any_shape_can_be_looked_into(data: Any):
    assert inner(body(reply(400, data)), "errors") == {}


def test_the_first_of_several_errors_is_looked_into():
    assert inner({"errors": [{"code": "a"}, {"code": "b"}]}, "errors") == inner({"errors": {"code": "a"}}, "errors")


def test_rate_headers_are_read_in_whatever_way_they_tell_the_time():
    for told in ("1735819200", "1735819200000", "2025-01-02T12:00:00Z", "2025-01-02T12:00Z"):
        answer = reply(x_ratelimit_remaining="3", x_ratelimit_limit="10", x_ratelimit_reset=told)
        assert rate_headers()(answer) == RateState(3, 10, NOON)
    assert rate_headers()(reply(x_ratelimit_remaining="3", x_ratelimit_limit="10")) is None, "until when is not told"
    for told in ("many", ""):
        answer = reply(x_ratelimit_remaining=told, x_ratelimit_limit="10", x_ratelimit_reset="1735819200")
        assert rate_headers()(answer) is None
    assert rate_headers("left", "most", "again")(reply(left="1", most="2", again="1735819200")) == RateState(1, 2, NOON)
    assert rate_headers()(reply()) is None
    for nonsense in ("", "soon", "9" * 30, "²"):
        assert reset_of(reply(x_ratelimit_reset=nonsense)) is None


def test_an_organization_is_known_by_each_of_its_domains():
    several = organization("acme:org:1", "Acme", ["Acme.com", "gmail.com", "https://www.acme.de/x", "acme.com"])
    assert (several.key, several.aliases) == ("org:domain:acme.com", ("org:domain:acme.de", "acme:org:1"))
    assert organization("acme:org:1", None, "acme.com").name == "acme.com"
    nothing = organization("acme:org:1", "", None)
    assert (nothing.key, nothing.name, nothing.aliases) == ("acme:org:1", "1", ())


def test_facts_are_what_has_a_value():
    row = {"a": 0, "b": None, "c": "", "d": False, "e": []}
    assert facts(row, "a", "b", "c", "d", "e", "missing", url=None, size=0) == {"a": 0, "d": False, "e": [], "size": 0}
    assert facts(row, deleted=True) == {"deleted": True}


def test_what_is_referred_to_is_told_once_and_never_of_itself():
    context = Context("acme")
    said = Graph(Entity("task", context.key("task", 1), "Task"))
    said.refer("about", context.keys("task", 1, 2, 2, None, "", 0))
    said.referred("authored", context.keys("user", 5, 5))
    assert said.relationships == [
        Relationship("about", "acme:task:1", "acme:task:2"),
        Relationship("authored", "acme:user:5", "acme:task:1"),
    ]


def test_html_is_one_line_without_what_is_not_for_people():
    assert one_line("<style>p {}</style><p>Fish &amp;\n <b>chips</b></p>") == "Fish & chips"
    assert one_line(None) == ""
    assert one_line(5) == "5"


def test_what_looks_like_html_and_ends_nothing_is_text():
    assert one_line("<b>Tea</b> < coffee, ask bob") == "Tea < coffee, ask bob"
    assert one_line("<p>Tea<style>p {") == "Tea p {"
    assert one_line("Tea<script>alert(1) <b>x</b>") == "Tea"


@pytest.mark.parametrize("piece", ["<", "<style", "<style>", "<script a", "<!--", "</style>", "<a "])
def test_a_mail_that_anybody_may_send_takes_no_worker_from_the_others(piece: str):
    began = time.process_time()
    one_line(piece * (MOST_TEXT // len(piece)))
    assert time.process_time() - began < 1, "seconds, not the quarter of a minute that looking for each one's end takes"


def test_a_subject_in_a_charset_that_takes_its_time_takes_no_worker_from_the_others():
    subject = f"=?punycode?q?{'a' * 200_000}-{'b' * 200_000}?="
    began = time.process_time()
    assert words(subject) == subject
    assert time.process_time() - began < 1, "seconds, not the eight that decoding it takes"


@pytest.mark.parametrize("piece", ["<", "<a", "<a>;", "<?page=1", "?page=1", '<a>; rel="', "<a>;\t"])
def test_a_header_that_anybodys_server_may_send_takes_no_worker_from_the_others(piece: str):
    answer = reply(data=[1], link=piece * (LONGEST_HEADER // len(piece)))
    began = time.process_time()
    assert (wire.next_link(answer), wire.last_page(answer)) == (None, 1)
    assert time.process_time() - began < 1, "seconds, not the minute that looking for each one's end takes"


def test_the_next_and_the_last_page_are_found_wherever_they_stand():
    first, last = '<https://a.test/x?page=2>; rel="next"', '<https://a.test/x?per_page=1&page=12&a=b>;rel="last"'
    for link in (f"{first}, {last}", f"{last}, {first}"):
        assert wire.next_link(reply(link=link)) == "https://a.test/x?page=2"
        assert wire.last_page(reply(link=link)) == 12
    assert wire.last_page(reply(link=first)) is None


def test_what_no_name_server_and_no_mail_server_knows_is_no_address():
    host = "a." * 50_000 + "test"
    began = time.process_time()
    assert domain_key(f"https://{host}/") is None
    assert mentioned_emails(f"bob@{host}, bob@acme.test") == ["person:email:bob@acme.test"]
    assert time.process_time() - began < 1


@pytest.mark.parametrize("found", [None, "", True, 1.5, {"id": 1}, []])
def test_what_is_no_id_names_no_record(found: Any):
    read = reader("id")
    good, rejected = records([{"id": found}, {"id": 7}, {"id": "x"}, {"id": 0}], read)
    assert [record.external_id for record in good] == ["7", "x", "0"]
    assert [(named, row) for named, row, _ in rejected] == [("", {"id": found})]
    with pytest.raises(ValueError, match="is no id"):
        read({"id": found})


@pytest.mark.parametrize(
    "website",
    [
        "https://uk.linkedin.com/company/acme",
        "https://www.linkedin.com/company/acme",
        "m.facebook.com/acme",
        "google.com",
        "https://docs.google.com/document/d/1",
        "https://sites.google.com/view/acme",
        "https://linktr.ee/acme",
        "https://bit.ly/3x",
        "https://g.page/acme",
        "yahoo.co.uk",
        "hotmail.co.uk",
        "outlook.de",
        "live.fr",
        "mail.yahoo.com",
        "github.io",
        "https://wordpress.com/acme",
    ],
)
def test_a_site_that_many_share_is_no_companys_own(website: str):
    assert domain_key(website) is None


@pytest.mark.parametrize(
    ("website", "domain"),
    [
        ("https://www.acme.test/about", "acme.test"),
        ("acme.github.io", "acme.github.io"),
        ("https://acme.notion.site/Home", "acme.notion.site"),
        ("acme.wordpress.com", "acme.wordpress.com"),
        ("acme.blogspot.com", "acme.blogspot.com"),
        ("notlinkedin.com", "notlinkedin.com"),
        ("shop.acme.co.uk", "shop.acme.co.uk"),
        ("live.test.io", "live.test.io"),
        ("myoutlook.de", "myoutlook.de"),
    ],
)
def test_a_site_of_ones_own_tells_whose_it_is(website: str, domain: str):
    assert domain_key(website) == f"org:domain:{domain}"
