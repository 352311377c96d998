"""Numbers, times and states in a person's words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

STATUS_WORDS = {
    "pending": ("Waiting", "clock", "neutral"),
    "running": ("Running", "refresh", "active"),
    "paused": ("Paused", "pause", "warn"),
    "completed": ("Completed", "check", "good"),
    "failed": ("Failed", "alert", "bad"),
    "cancelled": ("Cancelled", "x", "neutral"),
}
EVENT_WORDS = {
    "started": "started the import",
    "pause_requested": "asked for a pause",
    "cancel_requested": "asked to cancel",
    "paused": "paused",
    "resumed": "resumed",
    "cancelled": "cancelled",
    "completed": "completed",
    "failed": "failed",
    "retry": "will try again",
    "chunk_failed": "gave up on a part",
    "split": "split a part in two",
    "reaped": "took over from a worker that went away",
}


@register.filter
def number(value: Any) -> str:
    """12345 -> 12,345; None -> an en dash."""
    return "–" if value is None else f"{int(value):,}"


@register.filter
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


@register.simple_tag
def time_left(progress: Any) -> str:
    """The time left as a range; empty when unknown."""
    low, high = progress.seconds_low, progress.seconds_high
    if low is None or high is None:
        return ""
    if high < 5:
        return "a few seconds left"
    first, last = duration(low), duration(high)
    if first == last:
        return f"about {last} left"
    if first.rsplit(" ", 1)[-1] == last.rsplit(" ", 1)[-1] and first.count(" ") == last.count(" ") == 1:
        first = first.rsplit(" ", 1)[0]
    return f"{first}–{last} left"


@register.simple_tag
def took(job: Any) -> str:
    """How long the job has been worked on, from its start to its end or now."""
    if job.started_at is None:
        return "–"
    return duration(((job.completed_at or timezone.now()) - job.started_at).total_seconds())


@register.simple_tag
def ago(moment: datetime | None) -> SafeString | str:
    """A moment in words, exact on hover."""
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
        words = _day(moment)
    exact = moment.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', exact.isoformat(), f"{exact:%d %b %Y %H:%M:%S} UTC", words
    )


@register.simple_tag
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
    return format_html(
        '<span title="{} to {} UTC">{}</span>', f"{first:%d %b %Y %H:%M}", f"{last:%d %b %Y %H:%M}", words
    )


def _day(moment: datetime) -> str:
    this_year = moment.year == timezone.now().year
    return f"{moment.day} {moment:%b}" if this_year else f"{moment.day} {moment:%b %Y}"


@register.filter
def kind(value: str) -> str:
    """pull_request -> pull request"""
    return value.replace("_", " ")


@register.filter
def event(value: str) -> str:
    return EVENT_WORDS.get(value, value.replace("_", " "))


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """An icon of static/atom/icons.svg, hidden from screen readers: words stand beside it."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true"><use href="{}#{}"/></svg>', extra, static("atom/icons.svg"), name
    )


@register.simple_tag
def badge(job: Any) -> SafeString:
    """The status by colour, icon and word."""
    words, name, tone = STATUS_WORDS[job.status]
    if job.control == "pause":
        words = "Pausing"
    elif job.control == "cancel":
        words = "Cancelling"
    elif job.status == "paused" and job.pause_reason == "reauth_required":
        words, name, tone = "Needs reconnect", "plug", "bad"
    return format_html(
        '<span class="badge {}">{}{}</span>', tone, icon(name, "spin" if job.status == "running" else ""), words
    )


@register.simple_tag
def tile(provider: Any) -> SafeString:
    """A provider's mark."""
    return format_html('<span class="tile tile-{}" aria-hidden="true">{}</span>', provider.slug, provider.name[:1])
