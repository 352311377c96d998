"""manage.py provider_check, against every stand-in: what an operator runs before anything is connected."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from integrations.providers import PROVIDERS
from integrations.sandbox.app import STAND_INS
from integrations.sandbox.tokens import Tokens


def check(sandbox: Any, slug: str, out: StringIO) -> None:
    stand_in = next(found for found in STAND_INS if found.slug == slug)
    token = Tokens().make(stand_in.prefix, slug, next(iter(stand_in.accounts)), "access")
    call_command("provider_check", slug, base_url=f"{sandbox.root}/{slug}", token=token, stdout=out)


@pytest.mark.parametrize("slug", list(PROVIDERS))
def test_every_stream_is_reported_with_what_it_holds(sandbox: Any, slug: str):
    out = StringIO()
    check(sandbox, slug, out)
    told = out.getvalue()
    assert told.startswith(f"{PROVIDERS[slug].name}: ")
    for stream in PROVIDERS[slug].streams:
        line = next(line for line in told.splitlines() if re.match(rf"  {stream.name}( in .*)?: ", line))
        assert re.search(r"\d+ records in \d+ pages?.*, \d+ entities, \d+ relationships, 0 rejected$", line), line


def test_a_stream_that_may_not_be_read_fails_in_words_and_the_others_go_on(sandbox: Any):
    sandbox.control(deny=["zendesk.tickets"])
    out = StringIO()
    with pytest.raises(CommandError, match="At least one stream failed"):
        check(sandbox, "zendesk", out)
    assert re.search(
        r"^  tickets: FAILED provider_access_denied: Zendesk .*administrator", out.getvalue(), re.MULTILINE
    )
    assert re.search(r"^  comments: \d+ records", out.getvalue(), re.MULTILINE)


def test_what_a_provider_asks_before_connecting_must_be_given_when_its_address_depends_on_it():
    with pytest.raises(CommandError, match=r"subdomain.*--fact subdomain="):
        call_command("provider_check", "zendesk", token="x")
    with pytest.raises(CommandError, match="subdomain"):
        call_command("provider_check", "zendesk", token="x", fact=["subdomain=evil.test/"])
