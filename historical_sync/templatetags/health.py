"""{% findings as found %}: what is wrong in this deployment, for the admin's first page."""

from __future__ import annotations

from django import template

from historical_sync import health

register = template.Library()


@register.simple_tag
def findings() -> list[health.Finding]:
    """As `manage.py doctor` tells it."""
    return health.findings()
