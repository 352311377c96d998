"""What the site's own templates are made with, and what they may call. The admin's are Django's, and know nothing of this."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from uuid import UUID

from django.templatetags.static import static
from django.urls import get_script_prefix, reverse
from django.utils.text import capfirst
from django_htmx.jinja import htmx_script
from jinja2 import BaseLoader, Environment, StrictUndefined

from atom import pictures, words

PLACE = "f0000000-0000-4000-8000-00000000000f"  # where an id goes in an address


def environment(loader: BaseLoader, auto_reload: bool, **_: Any) -> Environment:
    """What Django's backend asks for. All is escaped, and a name that nobody passed is an error rather than nothing."""
    made = Environment(
        loader=loader,
        auto_reload=auto_reload,
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        cache_size=-1,
    )
    made.globals |= {
        called.__name__: called
        for called in (
            url, static, htmx_script, pictures.icon, pictures.kind_icon, pictures.tile, words.ago, words.badge, words.clock,
            words.dated, words.day, words.days, words.elapsed, words.event_dot, words.moment, words.instant, words.now_exactly, words.property_value, words.relation, words.since,
            words.time_left, words.took,
        )
    }  # fmt: skip
    made.filters |= {
        made_of.__name__: made_of
        for made_of in (
            capfirst, words.bar_tone, words.day_month, words.day_month_year, words.detail, words.document, words.duration,
            words.event, words.kind, words.kind_of, words.length_of, words.listed, words.number, words.pace, words.plural, words.property_name, words.sentence,
            words.series, words.span, words.state_word, words.truncatechars,
        )
    }  # fmt: skip
    return made


def url(name: str, *args: Any) -> str:
    """The address of a page. A page has a hundred, and Django takes 20 microseconds to make one."""
    if len(args) == 1 and isinstance(args[0], UUID):
        return _address(get_script_prefix(), name, PLACE).replace(PLACE, str(args[0]))
    return _address(get_script_prefix(), name, *args)


@lru_cache(maxsize=1024)
def _address(prefix: str, name: str, *args: Any) -> str:
    return reverse(name, args=args)
