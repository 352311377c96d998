"""Numbers, times and states in a person's words.

Times are written in UTC and say so; `static/atom/times.js` rewrites them in the viewer's zone, by their `data-as`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator

from atom.pictures import icon

INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)"
MOST_SHOWN = 20_000  # characters of a record's payload

# status -> word, icon, tone
STATUS_WORDS = {
    "pending": ("Queued", "pending", "neutral"),
    "running": ("Running", "running", "active"),
    "paused": ("Paused", "paused", "warn"),
    "completed": ("Completed", "completed", "good"),
    "failed": ("Failed", "failed", "bad"),
    "cancelled": ("Cancelled", "cancelled", "neutral"),
}
# kind of event -> words, tone
EVENT_WORDS = {
    "started": ("started the import", "neutral"),
    "pause_requested": ("asked for a pause", "neutral"),
    "cancel_requested": ("asked to cancel", "neutral"),
    "paused": ("paused the import", "warn"),
    "resumed": ("resumed the import", "active"),
    "cancelled": ("cancelled the import", "neutral"),
    "completed": ("completed the import", "good"),
    "failed": ("ended the import as failed", "bad"),
    "retry": ("will try a part again", "warn"),
    "chunk_failed": ("gave up on a part", "bad"),
    "split": ("split a part in two", "neutral"),
    "replayed": ("tried again what was kept aside", "active"),
    "worker_lost": ("took over from a worker that went away", "warn"),
    "restarted": ("began a part anew", "neutral"),
    "left_out": ("is not shown everything", "warn"),
    "gone": ("found what is there no more", "neutral"),
}


def in_a_terminal(text: str) -> str:
    """What others named, in a line of a terminal: what would move its cursor, colour it or begin another line shows as its code."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def number(value: Any) -> str:
    """12345 -> 12,345; None -> an en dash."""
    return "–" if value is None else f"{int(value):,}"


def duration(seconds: Any) -> str:
    """Seconds as a person says them: 4 s, 3 min, 2 h 10 min, 3 days."""
    if seconds is None:
        return "–"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24)} days"


def time_left(progress: Any) -> str:
    """The time left as a range; empty when unknown."""
    low, high = progress.seconds_low, progress.seconds_high
    if low is None or high is None:
        return ""
    if high < 5:
        return "a few seconds"
    first, last = duration(low), duration(high)
    if first == last:
        return f"about {last}"
    if first.rsplit(" ", 1)[-1] == last.rsplit(" ", 1)[-1] and first.count(" ") == last.count(" ") == 1:
        first = first.rsplit(" ", 1)[0]
    return f"{first}–{last}"


def took(job: Any) -> str:
    """How long the job ran, from its start to its end, its last stop or now, without the time that it lay idle (paused, failed)."""
    if job.started_at is None:
        return "–"
    end = job.completed_at or job.stopped_at or timezone.now()
    return duration((end - job.started_at).total_seconds() - job.idle_seconds)


def ago(moment: datetime | None) -> SafeString | str:
    """A moment in words, exact on hover: just now, 12 min ago, 3 h ago, 16 Nov."""
    if moment is None:
        return "never"
    seconds = (timezone.now() - moment).total_seconds()
    if seconds < 60:
        words = "just now"
    elif seconds < 3600:
        words = f"{int(seconds / 60)} min ago"
    elif seconds < 86_400:
        words = f"{int(seconds / 3600)} h ago"
    else:
        words = _day(moment.astimezone(UTC))
    return _time(moment, "ago", words)


def clock(moment: datetime | None) -> SafeString | str:
    """A time of day near now: 14:05 UTC, or 16 Nov, 14:05 UTC on another day."""
    if moment is None:
        return "–"
    there = moment.astimezone(UTC)
    words = f"{there:%H:%M} UTC"
    return _time(
        moment, "clock", words if there.date() == timezone.now().date() else f"{there.day} {there:%b}, {words}"
    )


def moment(value: datetime | None) -> SafeString | str:
    """A moment in full: 16 Nov 2026, 14:05 UTC."""
    if value is None:
        return "–"
    there = value.astimezone(UTC)
    return _time(value, "moment", f"{there.day} {there:%b %Y}, {there:%H:%M} UTC")


def elapsed(since: datetime) -> SafeString:
    """How long since, counting on while the page is open: 4 s."""
    return _time(since, "elapsed", duration((timezone.now() - since).total_seconds()))


def since(moment: datetime) -> SafeString:
    """The same, calm about what is fresh: just now, 4 s ago."""
    seconds = (timezone.now() - moment).total_seconds()
    return _time(moment, "since", "just now" if seconds < 3 else f"{duration(seconds)} ago")


def _time(moment: datetime, shown_as: str, words: str) -> SafeString:
    exact = moment.astimezone(UTC)
    when, hover = exact.isoformat(timespec="seconds"), f"{exact.day} {exact:%b %Y %H:%M:%S}"
    return mark_safe(f'<time datetime="{when}" title="{hover} UTC" data-as="{shown_as}">{words}</time>')  # noqa: S308 - no foreign words


def days(since: datetime, until: datetime) -> SafeString:
    """A range of days, exact on hover: 12–19 Oct, 28 Sep – 5 Oct 2025."""
    first, last = since.astimezone(UTC), (until - timedelta(microseconds=1)).astimezone(UTC)
    if first.date() == last.date():
        words = _day(first)
    elif (first.year, first.month) == (last.year, last.month):
        words = f"{first.day}–{_day(last)}"
    elif first.year == last.year:
        words = f"{first.day} {first:%b} – {_day(last)}"
    else:
        words = f"{first.day} {first:%b %Y} – {last.day} {last:%b %Y}"
    hover = f"{first.day} {first:%b %Y %H:%M} – {last.day} {last:%b %Y %H:%M} UTC"
    return mark_safe(f'<span title="{hover}">{words}</span>')  # noqa: S308 - of dates alone


def day(moment: datetime, *, end: bool = False) -> str:
    """The first day of a range, which is cut at UTC midnights, or the last one of what ends then: 16 Nov, 16 Nov 2025."""
    return _day((moment - timedelta(microseconds=end)).astimezone(UTC))


def day_month(value: date) -> str:
    """16 Nov"""
    return f"{value.day} {value:%b}"


def day_month_year(value: date) -> str:
    """16 Nov 2026"""
    return f"{value.day} {value:%b %Y}"


def now_exactly() -> str:
    """The present, as programs write it."""
    return timezone.now().isoformat()


def _day(moment: datetime) -> str:
    this_year = moment.year == timezone.now().year
    return day_month(moment) if this_year else day_month_year(moment)


def kind(value: str) -> str:
    """pull_request -> pull request"""
    return value.replace("_", " ")


# How a relationship reads from its other end.
INVERSE = {
    "about": "subject of", "assigned_to": "assigned", "attached_to": "attachments", "attended": "attended by", "authored": "authored by",
    "blocks": "blocked by", "comment_on": "comments", "depends_on": "needed by", "duplicates": "duplicated by", "for_account": "account of",
    "in_milestone": "contains", "labelled": "on", "member_of": "members", "mentions": "mentioned by", "owned_by": "owns",
    "part_of": "contains", "raised_by": "raised", "relates_to": "relates to", "replied_to": "replies", "with": "with", "works_at": "people",
}  # fmt: skip


def relation(value: str, outward: bool) -> str:
    """A kind of relationship as it reads from this end: part of, contains."""
    return kind(value) if outward else INVERSE.get(value, kind(value))


def kind_of(value: str, count: int) -> str:
    """A kind for so many: pull_request and 2 -> pull requests."""
    one = kind(value)
    if count == 1:
        return one
    if one == "person":
        return "people"
    if one.endswith("y") and one[-2:-1] not in "aeiou":
        return f"{one[:-1]}ies"
    return one if one.endswith("s") else f"{one}s"


def event(value: str) -> str:
    return EVENT_WORDS.get(value, (value.replace("_", " "), ""))[0]


@lru_cache(maxsize=128)
def event_dot(value: str) -> SafeString:
    """The icon of a kind of event, in its tone."""
    known = value in EVENT_WORDS
    tone = EVENT_WORDS[value][1] if known else "neutral"
    return format_html('<span class="dot {}">{}</span>', tone, icon(value if known else "dot"))


def plural(count: Any, words: str) -> str:
    """3|plural("record,records") -> 3 records"""
    one, many = words.split(",")
    return f"{number(count)} {one if count == 1 else many}"


def uncapfirst(words: str) -> str:
    """As it stands within a sentence: Every day at 02:00 UTC -> every day at 02:00 UTC"""
    return words[:1].lower() + words[1:]


def span(value: timedelta) -> str:
    """A plan's depth in words: 92 days -> 3 months, 1098 days -> 3 years."""
    if value.days >= 365:
        years = round(value.days / 365.25)
        return "1 year" if years == 1 else f"{years} years"
    months = round(value.days / 30.5)
    return f"{months} months" if months > 1 else f"{value.days} days"


def badge(job: Any, extra: str = "") -> SafeString:
    """The status by colour, icon and word. `extra`: "pill" where it stands alone."""
    words, name, tone = STATUS_WORDS[job.status]
    if job.control == "pause":
        words = "Pausing"
    elif job.control == "cancel":
        words = "Cancelling"
    elif job.status == "paused" and job.pause_reason == "reauth_required":
        words, name, tone = "Needs reconnect", "plug", "bad"
    elif job.status == "running" and job.waiting_until is not None and job.waiting_until > timezone.now():
        words, name, tone = "Waiting", "waiting", "warn"
    return _badge(tone, extra, name, words)


@lru_cache(maxsize=128)
def _badge(tone: str, extra: str, name: str, words: str) -> SafeString:
    drawn = icon(name, "spin" if name == "running" else "")
    return format_html('<span class="badge {} {}">{}{}</span>', tone, extra, drawn, words)


# What a list shows of an entity beside its name, the first that it has.
# By the words of their names, as tools write them each their own way: Email, StageName.
DETAILS = ("email", "state", "status", "stage", "stage name", "domain", "website", "title", "description")
STATES = ("state", "status", "stage")  # whose values are a vendor's own names: needs_response


def detail(properties: dict[str, Any]) -> str:
    """The one property that says most in a list; "" when there is none."""
    known = {property_name(name): name for name, value in properties.items() if value}
    name = next((known[words] for words in DETAILS if words in known), None)
    return "" if name is None else property_value(name, properties[name])


def property_value(name: str, value: Any) -> str:
    """A property's value in words: needs_response -> needs response, where it is a state."""
    return kind(listed(value)) if name in STATES else listed(value)


def dated(moment: datetime | None) -> datetime | None:
    """None also for the beginning of 1970, which stands for a time that the provider does not tell."""
    return None if moment is None or moment.timestamp() == 0 else moment


def document(value: Any) -> str:
    """A record's payload, to be read by a person; the beginning of a long one."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}\n…"


def length_of(value: Any) -> int:
    """How many characters it takes to show."""
    return len(str(value))


def property_name(value: str) -> str:
    """A property's name in words: merged_at and mergedAt -> merged at; html_url -> html URL."""
    if value.isupper():
        return value
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", value).replace("_", " ").lower()
    return re.sub(r"\b(?:url|id)\b", lambda found: found[0].upper(), words)


def pace(value: float | None) -> str:
    """A speed: < 0.1, 0.4, 3.5, 12, 1,234; only none at all is 0."""
    if value is None or 0 < value < 0.05:
        return "–" if value is None else "< 0.1"
    return f"{value:.1f}" if value < 9.95 and round(value, 1) != round(value) else number(round(value))


def listed(value: Any) -> str:
    """A value of several parts as a person writes them: A, B; Status: Done, Due: 12 Oct."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {listed(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(listed(one) for one in value)
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "–"}[value]
    return str(plain(value))


def series(names: Sequence[str]) -> str:
    """Names within a sentence: comments, work logged and changes."""
    first, last = ", ".join(name.lower() for name in names[:-1]), names[-1].lower()
    return f"{first} and {last}" if first else last


def instant(value: Any) -> datetime | None:
    """The moment that a text is (ISO 8601 with its zone) in UTC, None for any other and where that has no such year."""
    if not isinstance(value, str) or not re.fullmatch(INSTANT, value):
        return None
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def plain(value: Any) -> Any:
    """A value as it is; a number without an exponent."""
    return f"{Decimal(str(value)):f}" if isinstance(value, float) and "e" in str(value) else value


def truncatechars(value: str, most: int) -> str:
    """The beginning of a long text, with an ellipsis as the last of so many characters."""
    return value if len(value) <= most and value.isascii() else Truncator(value).chars(most)


def state_word(status: str) -> str:
    return STATUS_WORDS[status][0]


def sentence(text: str) -> str:
    """With a full stop, if it has none."""
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def bar_tone(job: Any) -> str:
    """The class of a job's progress bar."""
    return {"completed": "good", "failed": "bad", "paused": "warn", "cancelled": "neutral"}.get(job.status, "")
