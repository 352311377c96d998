"""manage.py provider_check, against every stand-in: what an operator runs before anything is connected."""

from __future__ import annotations

import dataclasses
import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from integrations.checking import check_stream
from integrations.providers import PROVIDERS
from integrations.providers.base import Estimate
from integrations.sandbox.app import STAND_INS
from integrations.sandbox.tokens import Tokens
from tests.contract.stage import ALL, staged


def check(sandbox: Any, slug: str, out: StringIO, **more: Any) -> None:
    stand_in = next(found for found in STAND_INS if found.slug == slug)
    token = Tokens().make(stand_in.prefix, slug, next(iter(stand_in.accounts)), "access")
    call_command("provider_check", slug, base_url=f"{sandbox.root}/{slug}", token=token, stdout=out, **more)


@pytest.mark.parametrize("slug", list(PROVIDERS))
def test_every_stream_is_reported_with_what_it_holds(sandbox: Any, slug: str):
    out = StringIO()
    check(sandbox, slug, out)
    told = out.getvalue()
    assert told.startswith(f"{PROVIDERS[slug].name}: ")
    for stream in PROVIDERS[slug].streams:
        line = next(line for line in told.splitlines() if re.match(rf"  {stream.name}( in .*)?: ", line))
        assert re.search(r"\d+ records in \d+ pages?.*, \d+ entities, \d+ relationships, 0 rejected$", line), line
    assert "WRONG" not in told
    assert "window edges: right" in told


def test_a_stream_that_may_not_be_read_fails_in_words_and_the_others_go_on(sandbox: Any):
    sandbox.control(deny=["zendesk.tickets"])
    out = StringIO()
    with pytest.raises(CommandError, match="At least one stream failed"):
        check(sandbox, "zendesk", out)
    assert re.search(
        r"^  tickets: FAILED provider_access_denied: Zendesk .*administrator", out.getvalue(), re.MULTILINE
    )
    assert re.search(r"^  comments: \d+ records", out.getvalue(), re.MULTILINE)


def test_a_site_that_refuses_is_told_and_the_others_are_checked(sandbox: Any):
    sandbox.control(deny=["jira.northwind"])
    out = StringIO()
    with pytest.raises(CommandError, match="At least one stream failed"):
        check(sandbox, "jira", out)
    told = out.getvalue()
    assert re.search(r"^  projects: FAILED provider_access_denied: northwind: Jira ", told, re.MULTILINE)
    assert re.search(r"^  issues in Labör .*: \d+ .*records", told, re.MULTILINE)


def test_the_days_and_streams_can_be_chosen(sandbox: Any):
    out = StringIO()
    check(sandbox, "github", out, days=365, streams="commits, issues")
    told = out.getvalue()
    assert re.search(r"^  commits in northwind-dev/", told, re.MULTILINE)
    assert re.search(r"^  issues in northwind-dev/", told, re.MULTILINE)
    assert "comments" not in told.replace("comment_on", "")
    for wrong in ({"streams": "nothing"}, {"days": 0}):
        with pytest.raises(CommandError) as caught:
            check(sandbox, "github", out, **wrong)
        assert caught.value.returncode == 2


def test_no_access_is_another_exit_than_a_stream_that_fails(sandbox: Any):
    with pytest.raises(CommandError) as caught:
        call_command("provider_check", "github", base_url=f"{sandbox.root}/github", token="gho_nobody")
    assert caught.value.returncode == 3
    assert "connection_reauth_required" in str(caught.value)


async def test_a_stream_that_loses_rows_at_an_edge_is_found_out():
    async with staged("github", 600) as stage:
        stream = PROVIDERS["github"].stream("commits")
        partition = next(part for part in await stage.partitions(stream) if part.label.endswith("/storefront"))

        async def exclusive(api: Any, part: Any, window: Any, cursor: Any) -> Any:
            page = await stream.fetch(api, part, window, cursor)
            return page._replace(records=[row for row in page.records if row.occurred_at > window.since])

        async def too_few(api: Any, part: Any, window: Any) -> Any:
            return Estimate(1, exact=True)

        right = await check_stream(stage.api(), stream, partition, ALL)
        assert right.is_well
        assert right.edges == "right"
        wrong = await check_stream(stage.api(), dataclasses.replace(stream, fetch=exclusive), partition, ALL)
        assert wrong.edges == "wrong"
        assert "loses 1 rows" in wrong.wrong[-1]
        wrong = await check_stream(stage.api(), dataclasses.replace(stream, count=too_few), partition, ALL)
        assert "the provider counts 1, but" in wrong.wrong[0]


async def test_a_provider_that_asks_to_slow_down_is_waited_for():
    async with staged("github") as stage:
        stream = PROVIDERS["github"].stream("issues")
        partition = next(part for part in await stage.partitions(stream) if part.label.endswith("/storefront"))
        await stage.control(rate_limit_every=4, retry_after=0)  # counting takes three calls
        assert (await check_stream(stage.api(), stream, partition, ALL)).is_well


def test_what_a_provider_asks_before_connecting_must_be_given_when_its_address_depends_on_it():
    with pytest.raises(CommandError, match=r"subdomain.*--fact subdomain="):
        call_command("provider_check", "zendesk", token="x")
    with pytest.raises(CommandError, match="subdomain"):
        call_command("provider_check", "zendesk", token="x", fact=["subdomain=evil.test/"])
