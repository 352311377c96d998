"""What every provider's file promises, held against its stand-in through the real gate. Picks up what is in the registry by itself."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from atom import pictures, words
from integrations.errors import (
    AccessDenied,
    Misconfigured,
    ProviderError,
    ReauthRequired,
    RetryLater,
    Throttled,
    Unavailable,
)
from integrations.grants import granted_scopes, read_token, token_request
from integrations.http import Api
from integrations.oauth import authorize_query
from integrations.providers import PROVIDERS
from integrations.providers.base import ONE_PAGE, Revocation, Stream, Window, WindowKind
from integrations.sandbox.app import STAND_INS
from tests.contract.stage import ALL, ROOT, Import, Stage
from tests.senders import Into

SLUGS = list(PROVIDERS)
CASES = [(slug, stream.name) for slug, provider in PROVIDERS.items() for stream in provider.streams]
COUNTED = [(slug, name) for slug, name in CASES if PROVIDERS[slug].stream(name).count is not None]
TIMED = [(slug, name) for slug, name in CASES if PROVIDERS[slug].stream(name).window is not WindowKind.SNAPSHOT]
VANISHING = [(slug, name) for slug, name in CASES if PROVIDERS[slug].stream(name).gone is not None]
SHARED = ("person:email:", "org:domain:")
SECOND = timedelta(seconds=1)


@pytest.fixture
async def stage(slug: str) -> AsyncIterator[Stage]:
    stage = Stage(slug)
    async with stage.client:
        await stage.use(stage.account)
        yield stage


@pytest.fixture
def stream(slug: str, name: str) -> Stream:
    return PROVIDERS[slug].stream(name)


# -- what there is --------------------------------------------------------------------------------------------------------


def test_every_provider_has_a_stand_in_that_agrees_with_it() -> None:
    found = {stand_in.slug: stand_in for stand_in in STAND_INS}
    assert set(found) == set(PROVIDERS)
    for slug, provider in PROVIDERS.items():
        assert found[slug].name == provider.name
        assert set(found[slug].streams) == {stream.name for stream in provider.streams}
        assert len(found[slug].accounts) >= 3
        assert (provider.token_help is not None) == bool(found[slug].pasted_prefix)
        assert found[slug].prefix != found[slug].refresh_prefix


@pytest.mark.parametrize("slug", SLUGS)
def test_a_provider_says_who_it_is(slug: str) -> None:
    provider = PROVIDERS[slug]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", slug)
    assert provider.slug == slug
    assert provider.name
    assert provider.category
    assert provider.summary.endswith(".")
    assert provider.brings
    assert provider.oauth is not None or provider.token_help is not None
    assert provider.budget.concurrency >= 1
    names = [stream.name for stream in provider.streams]
    assert len(set(names)) == len(names)
    for stream in provider.streams:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", stream.name)
        assert stream.label
        assert not stream.partitioned or provider.partitions is not None


@pytest.mark.parametrize("slug", SLUGS)
async def test_an_account_is_told_from_another_and_is_the_same_again(slug: str, stage: Stage) -> None:
    seen = []
    for account in stage.stand_in.accounts:
        first, second = await stage.use(account), await stage.provider.identify(stage.api())
        assert first.external_id == second.external_id
        assert first.label
        assert json.loads(json.dumps(dict(first.facts))) == dict(first.facts)
        seen.append(first.external_id)
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if PROVIDERS[slug].oauth is not None])
async def test_the_trip_to_the_consent_page_ends_with_a_token(slug: str, stage: Stage) -> None:
    provider, oauth = stage.provider, stage.provider.oauth
    assert oauth is not None
    back, verifier, root = "https://atom.test/back", "v" * 64, f"{ROOT}/{slug}"
    asked = authorize_query(provider, f"sandbox-{slug}", back, "some-state", verifier)
    reply = await stage.client.post(
        root + oauth.authorize_path, params=asked, data={"answer": "allow", "account": stage.account}
    )
    assert reply.status_code == 302, reply.text
    code = dict(parse_qsl(urlsplit(reply.headers["location"]).query))["code"]

    async def exchange(code: str, secret: str = "sandbox-secret") -> dict[str, Any]:
        fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
        fields |= {"code_verifier": verifier} if oauth.pkce else {}
        headers, content = token_request(provider, f"sandbox-{slug}", secret, fields)
        reply = await stage.client.post(root + oauth.token_path, headers=headers, content=content)
        return read_token(provider, reply.status_code, reply.headers, reply.content)

    token = await exchange(code)
    assert bool(token.get("refresh_token")) == stage.stand_in.grants.refreshes == bool(stage.stand_in.refresh_prefix)
    if (scopes := granted_scopes(token)) is not None:
        assert set(scopes) >= set(oauth.scopes) - {"offline_access"}
    facts = {**stage.facts, **(oauth.token_facts(token) if oauth.token_facts else {})}
    api = Api(provider, root, Into(stage.app), token["access_token"], facts=facts)
    assert (await provider.identify(api)).external_id
    with pytest.raises(ReauthRequired):
        await exchange(code)  # which has served
    with pytest.raises(Misconfigured):
        await exchange("another", "wrong")


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if PROVIDERS[slug].oauth is not None])
async def test_a_grant_that_is_given_up_is_gone_at_the_vendor(slug: str, stage: Stage) -> None:
    provider, oauth = stage.provider, stage.provider.oauth
    assert oauth is not None
    if oauth.revoke is None:
        assert not stage.stand_in.grants.revoke, "the vendor could revoke"
        return
    assert oauth.revokes_all == stage.stand_in.grants.revokes_all
    root = f"{ROOT}/{slug}"
    bare, sign_in = (Api(provider, root, Into(stage.app), facts=stage.facts) for _ in range(2))
    await oauth.revoke(
        Revocation(bare, sign_in, root, root, f"sandbox-{slug}", "sandbox-secret", stage.token, stage.refresh_token)
    )
    if stage.refresh_token:
        # Some vendors let access tokens live out their minutes; no new one must come after them.
        await stage.control(expire=slug)
    with pytest.raises(ReauthRequired):
        await provider.identify(stage.api())


# -- windows and pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_every_row_is_read_page_by_page(stage: Stage, stream: Stream) -> None:
    await stage.control(page_size=3)
    found = await stage.read(stream)
    assert found.ids == stage.truth(stream, ALL)
    assert found.ids
    assert not found.rejected
    if stream.page_size != ONE_PAGE:
        assert len(found.ids) <= 3 * len(await stage.partitions(stream)) or found.pages > 1


@pytest.mark.parametrize(("slug", "name"), [case for case in CASES if PROVIDERS[case[0]].stream(case[1]).record])
async def test_a_row_is_read_again_as_it_was_fetched(stage: Stage, stream: Stream) -> None:
    """So that a row of the quarantine becomes the record that it would have been."""
    assert stream.record is not None
    done = await stage.read(stream)
    assert done.rows
    for record, _ in done.rows.values():
        assert stream.record(json.loads(json.dumps(record.payload))) == record


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if PROVIDERS[slug].partitions])
async def test_the_list_of_what_an_account_can_be_narrowed_to_is_narrowed_itself(slug: str, stage: Stage) -> None:
    """Where a stream's rows are the partitions, it says so; nothing is imported of those that were not chosen."""
    assert stage.provider.partitions is not None
    keys = {partition.key for partition in await stage.provider.partitions(stage.api())}
    for stream in stage.provider.streams:
        if not stream.partitioned:
            found = (await stage.read(stream)).ids
            assert stream.names_partitions == bool(found & keys), stream.name
            assert not stream.names_partitions or stream.parts_of is None


@pytest.mark.parametrize(("slug", "name"), TIMED)
async def test_windows_are_half_open_and_add_up(stage: Stage, stream: Stream) -> None:
    """An edge that lies exactly on a row's time gives the row to the later window."""
    await stage.control(page_size=4)
    whole = await stage.read(stream)
    rows = sorted(whole.rows.values(), key=lambda row: row[0].occurred_at)
    edge = rows[len(rows) // 2][0]
    before, after = Window(ALL.since, edge.occurred_at), Window(edge.occurred_at, ALL.until)
    early, late = await stage.read(stream, before), await stage.read(stream, after)
    assert early.ids == stage.truth(stream, before)
    assert late.ids == stage.truth(stream, after)
    assert edge.external_id in late.ids
    assert not early.ids & late.ids
    assert early.ids | late.ids == whole.ids
    narrow = Window(edge.occurred_at, edge.occurred_at + SECOND)
    assert edge.external_id in (await stage.read(stream, narrow)).ids
    assert (await stage.read(stream, narrow)).ids == stage.truth(stream, narrow)


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_a_window_without_rows_is_empty(stage: Stage, stream: Stream) -> None:
    window = Window(ALL.since - timedelta(days=30), ALL.since)
    assert (await stage.read(stream, window)).ids == stage.truth(stream, window)


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_what_the_vendor_caps_is_split_or_read_round_it(stage: Stage, stream: Stream) -> None:
    await stage.control(page_size=4, cap=8)
    assert (await stage.read(stream)).ids == stage.truth(stream, ALL)


@pytest.mark.parametrize(("slug", "name"), COUNTED)
async def test_a_count_is_what_the_window_holds(stage: Stage, stream: Stream) -> None:
    assert stream.count is not None
    whole = await stage.read(stream)
    rows = sorted(record.occurred_at for record, _ in whole.rows.values())
    middle = rows[len(rows) // 2]
    for window in (ALL, Window(ALL.since, middle), Window(middle, ALL.until)):
        counts = [await stream.count(stage.api(), part, window) for part in await stage.partitions(stream)]
        known = [count for count in counts if count is not None]
        if len(known) == len(counts) and all(count.exact for count in known):
            assert sum(count.records for count in known) == len(stage.truth(stream, window))
        assert all(count.records >= 0 for count in known)


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_deleted_rows_are_told_as_such_or_gone(stage: Stage, stream: Stream) -> None:
    before = stage.truth(stream, ALL)
    await stage.control(delete_every=3)
    found = await stage.read(stream)
    assert found.ids == stage.truth(stream, ALL)
    assert found.ids <= before
    told = [graph for graph in found.graphs(stage.namespace) if (graph.entities[0].properties or {}).get("deleted")]
    assert found.ids < before or told or stream.window is WindowKind.SNAPSHOT


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_an_empty_account_is_read_to_its_end(stage: Stage, stream: Stream) -> None:
    await stage.use(list(stage.stand_in.accounts)[-1])
    found = await stage.read(stream)
    assert found.ids == stage.truth(stream, ALL) == set()
    for partition in await stage.partitions(stream):
        count = await stream.count(stage.api(), partition, ALL) if stream.count else None
        assert count is None or count.records == 0


# -- bad days -------------------------------------------------------------------------------------------------------------


async def first_page(stage: Stage, stream: Stream) -> Any:
    """A way to ask for the first page of the partition that has the most rows on it."""
    pages = {part.key: await stream.fetch(stage.api(), part, ALL, None) for part in await stage.partitions(stream)}
    fullest = max(pages, key=lambda key: len(pages[key].records))
    partition = next(part for part in await stage.partitions(stream) if part.key == fullest)

    async def ask() -> Any:
        return await stream.fetch(stage.api(), partition, ALL, None)

    return ask


@pytest.mark.parametrize(("slug", "name"), CASES)
@pytest.mark.parametrize("switch", ["rate_limit_every", "daily_quota"])
async def test_a_limit_is_waited_for(stage: Stage, stream: Stream, switch: str) -> None:
    ask = await first_page(stage, stream)
    await stage.control(**{switch: 1, "retry_after": 7})
    if switch == "daily_quota":
        await stage.control(daily_quota=1)
        with suppress(Throttled):
            await stage.provider.identify(stage.api())  # which uses the day's one call up, and may need more
    with pytest.raises(Throttled) as caught:
        await ask()
    assert str(caught.value)
    if switch == "rate_limit_every":
        assert caught.value.retry_at is not None
        assert timedelta(0) < caught.value.retry_at - datetime.now(UTC) < timedelta(minutes=5)


@pytest.mark.parametrize(("slug", "name"), CASES)
@pytest.mark.parametrize("switch", ["error_every", "html_every", "truncate_every"])
async def test_a_broken_answer_is_tried_again_later(stage: Stage, stream: Stream, switch: str) -> None:
    ask = await first_page(stage, stream)
    await stage.control(**{switch: 1})
    with pytest.raises(Unavailable):
        await ask()


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_an_expired_token_is_refreshed_once_or_needs_a_person(stage: Stage, stream: Stream) -> None:
    ask = await first_page(stage, stream)
    await stage.control(expire=stage.provider.slug)
    if stage.refresh_token:
        await ask()
        assert stage.refreshed == 1
        await ask()
        assert stage.refreshed == 1
    else:
        with pytest.raises(ReauthRequired):
            await ask()


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_a_revoked_grant_needs_a_person(stage: Stage, stream: Stream) -> None:
    ask = await first_page(stage, stream)
    await stage.control(revoke=stage.provider.slug)
    with pytest.raises(ReauthRequired) as caught:
        await ask()
    assert str(caught.value)
    assert stage.token not in str(caught.value)


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_a_missing_permission_is_told_in_words(stage: Stage, stream: Stream) -> None:
    ask = await first_page(stage, stream)
    await stage.control(deny=[f"{stage.provider.slug}.{stream.name}"])
    with pytest.raises(AccessDenied) as caught:
        await ask()
    assert len(str(caught.value)) > 20
    assert stage.provider.name in str(caught.value)


@pytest.mark.parametrize("slug", SLUGS)
async def test_a_wrong_token_is_no_account(slug: str, stage: Stage) -> None:
    api = stage.api()
    api.token, api.refresh = "nobody's", None
    with pytest.raises(ReauthRequired):
        await stage.provider.identify(api)


@pytest.mark.parametrize("slug", SLUGS)
async def test_another_providers_token_is_no_account(slug: str, stage: Stage) -> None:
    other = next(stand_in for stand_in in STAND_INS if stand_in.slug != slug)
    api = stage.api()
    api.token = stage.app.tokens.make(other.prefix, other.slug, next(iter(other.accounts)), "access")
    api.refresh = None
    with pytest.raises(ProviderError):
        await stage.provider.identify(api)


# -- rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slug", "name"), CASES)
async def test_every_row_tells_its_part_of_the_graph(stage: Stage, stream: Stream) -> None:
    prefixes = (*SHARED, f"{stage.namespace}:")
    found = await stage.read(stream)
    for record, _ in found.rows.values():
        assert isinstance(record.external_id, str)
        assert record.external_id
        assert record.occurred_at.utcoffset() == timedelta(0)
        assert json.loads(json.dumps(record.payload)) == record.payload
    own_keys = set()
    for graph in found.graphs(stage.namespace):
        own = graph.entities[0]
        assert own.properties is not None, "a record's own entity comes first, with its properties"
        assert json.loads(json.dumps(own.properties)) == own.properties
        own_keys.add(own.key)
        for entity in graph.entities:
            assert entity.kind in pictures.KINDS, "it has a picture"
            assert entity.name.strip()
            for key in (entity.key, *entity.aliases, *entity.handles):
                assert key.startswith(prefixes), key
                assert key == key.strip()
                assert not key.endswith((":", ":None")), key
        for relationship in graph.relationships:
            assert relationship.kind in words.INVERSE, "it reads from both ends"
            assert relationship.source != relationship.target
            for key in (relationship.source, relationship.target):
                assert key.startswith(prefixes), key
                assert not key.endswith((":", ":None")), key
    assert len(own_keys) > len(found.rows) / 2, "records share their own entities"


@pytest.mark.parametrize("slug", SLUGS)
async def test_the_rows_are_as_odd_as_real_ones_and_know_the_same_people(slug: str, stage: Stage) -> None:
    text, keys = "", set()
    for stream in stage.provider.streams:
        found = await stage.read(stream)
        text += json.dumps([record.payload for record, _ in found.rows.values()], ensure_ascii=False)
        for graph in found.graphs(stage.namespace):
            for entity in graph.entities:
                keys |= {entity.key, *entity.aliases}
    assert "null" in text, "no row lacks anything"
    assert not text.isascii(), "no row has letters from elsewhere"
    cast = {f"person:email:{person.email}" for person in stage.app.world.people()}
    assert len(keys & cast) >= 3, "nobody is known to the other tools"


# -- what is gone ---------------------------------------------------------------------------------------------------------


async def gone(stage: Stage, stream: Stream, done: Import) -> set[str]:
    """What the provider says is there no more of what was read."""
    assert stream.gone is not None
    found: set[str] = set()
    for partition in {part.key: part for _, part in done.rows.values()}.values():
        records = [record for record, part in done.rows.values() if part.key == partition.key]
        found.update(await stream.gone(stage.api(), partition, records))
    return found


@pytest.mark.parametrize(("slug", "name"), VANISHING)
async def test_what_is_gone_is_told_from_what_is_there(slug: str, name: str, stage: Stage, stream: Stream) -> None:
    """All of it, but for what is older than all that is left beside it, which may be hidden for its age, and comments of Linear on what is no
    issue."""
    done = await stage.read(stream)
    assert await gone(stage, stream, done) == set()
    await stage.control(delete_every=3)
    left = stage.truth(stream, ALL)
    found = await gone(stage, stream, done)
    assert set() < found <= done.ids - left
    for record, part in (done.rows[own] for own in done.ids - left - found):
        beside = [other for other, its in done.rows.values() if its.key == part.key and other.external_id in left]
        is_oldest = all(other.occurred_at > record.occurred_at for other in beside)
        assert is_oldest or record.payload.get("issue", "not one of Linear's") is None, record.external_id


@pytest.mark.parametrize(("slug", "name"), VANISHING)
async def test_what_may_not_be_read_is_not_gone(slug: str, name: str, stage: Stage, stream: Stream) -> None:
    done = await stage.read(stream)
    await stage.control(delete_every=3, deny=[f"{slug}.{name}"])
    with suppress(AccessDenied):
        assert await gone(stage, stream, done) == set()


@pytest.mark.parametrize(("slug", "name"), VANISHING)
@pytest.mark.parametrize("fault", ["error_every", "html_every", "truncate_every", "rate_limit_every"])
async def test_nothing_is_gone_while_the_provider_is_out_of_order(
    slug: str, name: str, fault: str, stage: Stage, stream: Stream
) -> None:
    done = await stage.read(stream)
    await stage.control(**{fault: 1})
    with pytest.raises(RetryLater):
        await gone(stage, stream, done)
