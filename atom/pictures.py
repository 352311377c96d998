"""Icons and providers' marks as inline SVG. Every template may call these (`atom.templating`)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from lucide.jinja import lucide

# What a picture means on our pages -> the icon of https://lucide.dev that says so. Any other name is Lucide's own.
ICONS = {
    "logo": "atom",
    "alert": "triangle-alert",
    "bolt": "zap",
    "cancelled": "circle-slash",
    "completed": "circle-check",
    "failed": "circle-x",
    "graph": "waypoints",
    "key": "key-round",
    "paused": "circle-pause",
    "pending": "circle-dashed",
    "refresh": "refresh-cw",
    "running": "loader-circle",
    "waiting": "hourglass",
    # the timeline
    "started": "circle-play",
    "pause_requested": "pause",
    "cancel_requested": "x",
    "resumed": "play",
    "retry": "rotate-ccw",
    "chunk_failed": "circle-x",
    "replayed": "rotate-ccw",
    "worker_lost": "heart-pulse",
    "restarted": "rotate-ccw",
    "left_out": "eye-off",
    "gone": "trash-2",
}
# kind of entity -> icon; any other is a box
KINDS = {
    "bot": "bot", "calendar": "calendar-days", "case": "briefcase", "channel": "hash", "collection": "table-2",
    "commit": "git-commit-horizontal", "deal": "handshake", "document": "file-text", "event": "calendar", "folder": "folder",
    "group": "users-round", "invoice": "receipt", "issue": "circle-dot", "label": "tag", "message": "message-square",
    "milestone": "flag", "organization": "building-2", "payment": "credit-card", "person": "user-round", "product": "package",
    "project": "folder-kanban", "pull_request": "git-pull-request", "repository": "book-marked", "room": "door-open",
    "series": "calendar-sync", "subscription": "repeat", "task": "square-check", "team": "users-round",
    "thread": "messages-square", "ticket": "life-buoy",
}  # fmt: skip


@lru_cache(maxsize=256)
def icon(name: str, extra: str = "") -> SafeString:
    """An icon, hidden from screen readers: words stand beside it. `extra`: more classes ("spin")."""
    drawn = lucide(ICONS.get(name, name), size=16, **{"class": escape(f"icon {extra}".strip()), "aria-hidden": "true"})
    return mark_safe(re.sub(r"\s*\n\s*", "", drawn))  # noqa: S308


def kind_icon(kind: str, extra: str = "") -> SafeString:
    """The icon of a kind of entity."""
    return icon(KINDS.get(kind, "box"), extra)


def tile(provider: Any, size: str = "") -> SafeString:
    """A provider's mark, or the first letter of its name where the set has none. `size`: "small", "" or "large"."""
    return _tile(provider.slug, provider.name, size)


@lru_cache(maxsize=256)
def _tile(slug: str, name: str, size: str) -> SafeString:
    path = _marks().get(slug)
    if path is None:
        return format_html('<span class="tile letter mark-{} {}" aria-hidden="true">{}</span>', slug, size, name[:1])
    return format_html(
        '<span class="tile mark-{} {}" aria-hidden="true"><svg viewBox="0 0 24 24"><path d="{}"/></svg></span>',
        slug, size, path,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _marks() -> dict[str, str]:
    text = (settings.BASE_DIR / "static" / "atom" / "marks.svg").read_text()
    return dict(re.findall(r'<symbol id="([^"]+)"[^>]*><path d="([^"]+)"/>', text))
