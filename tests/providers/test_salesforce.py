"""Who is who in Salesforce's rows."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from historical_sync.extraction import Ids, graph_rows, record_rows
from historical_sync.identity import entity_id
from historical_sync.pgarrays import instant
from integrations.errors import AccessDenied, ReauthRequired, WindowTooLarge
from integrations.http import Reply
from integrations.providers.base import WHOLE, Context, Graph, Window
from integrations.providers.salesforce import _CHANGED, _FIELDS, SALESFORCE, _Hidden
from integrations.providers.wire import EPOCH, utc
from integrations.sandbox.salesforce_rows import TABLES
from tests.contract.stage import ALL, staged

NS = "salesforce@00D1"
ACCOUNT = {"AccountId": "001A", "Account": {"Name": "Acme", "Website": "https://acme.test"}}
OWNER = {"OwnerId": "005A", "Owner": {"Name": "Ana", "Email": "ana@seller.test"}}


def told(stream: str, **row: Any) -> Graph:
    return SALESFORCE.stream(stream).extract({"Id": "500A", **row}, Context(NS))


def said(graph: Graph) -> set[tuple[str, str]]:
    return set(zip(graph.kinds, graph.ends, strict=True))


@pytest.mark.parametrize(
    ("stream", "row"),
    [
        ("contacts", {"Id": "003B", "Name": "Bo", "Email": "bo@acme.test"}),
        ("opportunities", {"Id": "006B", "Name": "A deal"}),
        ("cases", {"ContactId": "003A", "Contact": {"Name": "Cy", "Email": "cy@acme.test"}}),
    ],
)
def test_a_mention_is_no_proof_of_a_domain_or_an_address(stream: str, row: dict[str, Any]):
    """The row is not touched when the account's site or the contact's address is put right."""
    mentioned = {e.key: e for e in told(stream, **row, **ACCOUNT).entities[1:]}
    assert mentioned[f"{NS}:account:001A"].name == "Acme"
    assert all(not e.aliases for e in mentioned.values())
    assert not any(key.startswith(("org:", "person:")) for key in mentioned)


def test_so_no_row_brings_the_addresses_of_others():
    """They would be stored with it for nothing, and cost a second query where a profile hides them."""
    of_others = {field.partition(".")[2] for fields in _FIELDS.values() for field in fields.split(", ") if "." in field}
    assert of_others == {"Name", "IsPersonAccount"}


def test_the_things_own_records_say_it():
    account = told("accounts", Id="001A", Name="Acme", Website="https://acme.test").entities[0]
    assert (account.key, account.aliases) == ("org:domain:acme.test", (f"{NS}:account:001A",))
    contact = told("contacts", Id="003A", Name="Cy", Email="cy@acme.test").entities[0]
    assert (contact.key, contact.aliases) == ("person:email:cy@acme.test", (f"{NS}:contact:003A",))


@pytest.mark.parametrize(
    ("stream", "row", "statements"),
    [
        (
            "accounts", {"Id": "001B", "Name": "Acme Köln", "ParentId": "001A", "Parent": {"Name": "Acme"}},
            {("part_of", "account:001A"), ("owned_by", "user:005A")},
        ),
        ("contacts", {"Id": "003B", "Name": "Bo", **ACCOUNT}, {("works_at", "account:001A"), ("owned_by", "user:005A")}),
        (
            "opportunities", {"Id": "006B", "Name": "A deal", "Description": "Ask bo@acme.test", **ACCOUNT},
            {("for_account", "account:001A"), ("owned_by", "user:005A"), ("mentions", "person:email:bo@acme.test")},
        ),
        (
            "cases", {"ContactId": "003A", "Subject": "Late", "Description": "Ask bo@acme.test", **ACCOUNT},
            {
                ("raised_by", "contact:003A"), ("for_account", "account:001A"), ("assigned_to", "user:005A"),
                ("mentions", "person:email:bo@acme.test"),
            },
        ),
    ],
)  # fmt: skip
def test_a_row_says_whose_it_is_and_whom_it_is_about(
    stream: str, row: dict[str, Any], statements: set[tuple[str, str]]
):
    assert {(kind, end.removeprefix(f"{NS}:")) for kind, end in said(told(stream, **row, **OWNER))} == statements
    queued = told(stream, **row, OwnerId="00G1", Owner={"Name": "Support"})
    owners = [end for kind, end in said(queued) if kind in ("owned_by", "assigned_to")]
    assert owners == [f"{NS}:group:00G1"]
    assert [(e.kind, e.name) for e in queued.entities if e.key == owners[0]] == [("group", "Support")], "is no person"


def test_owners_and_leads_that_are_mentioned_are_known_by_their_ids():
    """What is said of a lead besides its name comes empty with an activity: only users have an address there."""
    found = told("tasks", Id="00TA", WhoId="00QA", Who={"Name": "Li", "Email": None}, **OWNER)
    assert {(e.key, e.name, e.aliases) for e in found.entities[1:]} == {
        (f"{NS}:user:005A", "Ana", ()),
        (f"{NS}:lead:00QA", "Li", ()),
    }


def test_a_user_is_a_person_by_the_own_record_unless_it_is_salesforce_itself_or_a_visitor():
    ana = told("users", Id="005A", Name="Ana", Email="Ana@seller.test", IsActive=False, UserType="Standard").entities[0]
    assert (ana.kind, ana.key, ana.aliases) == ("person", "person:email:ana@seller.test", (f"{NS}:user:005A",))
    assert ana.properties == {"Email": "Ana@seller.test", "IsActive": False}
    for what in ("AutomatedProcess", "CloudIntegrationUser", "Guest"):
        nobody = told("users", Id="005B", Name="Site", Email="ana@seller.test", UserType=what).entities[0]
        assert (nobody.kind, nobody.key, nobody.aliases) == ("bot", f"{NS}:user:005B", ())


def test_a_user_of_a_sandbox_is_who_they_are_in_production():
    """Salesforce puts .invalid behind the addresses of users whom it copies into a sandbox, so that it can't write to them."""
    ana = told("users", Id="005A", Name="Ana", Email="Ana@seller.test.invalid", UserType="Standard").entities[0]
    assert (ana.key, ana.aliases) == ("person:email:ana@seller.test", (f"{NS}:user:005A",))
    assert ana.properties == {"Email": "Ana@seller.test.invalid"}


async def test_users_of_any_age_come_with_any_span():
    """Whoever owns what changed in the span may not have changed for years."""
    async with staged("salesforce") as stage:
        users = SALESFORCE.stream("users")
        recent = Window(ALL.until - timedelta(days=2), ALL.until)
        found = await stage.read(users, recent)
        assert len(found.ids) > 10
        assert found.ids == stage.truth(users, ALL)
        asked = await users.count(stage.api(), WHOLE, recent) if users.count else None
        assert asked == (len(found.ids), True)


def test_a_lead_is_a_person_who_works_where_the_web_site_leads():
    lead = told(
        "leads", Id="00QA", Name="Li", Company="Acme", Email="li@acme.test", Website="acme.test", Status="Open", **OWNER
    )
    assert (lead.entities[0].kind, lead.own) == ("person", "person:email:li@acme.test")
    assert lead.entities[0].aliases == (f"{NS}:lead:00QA",)
    assert said(lead) == {("works_at", "org:domain:acme.test"), ("owned_by", f"{NS}:user:005A")}
    assert said(told("leads", Id="00QA", Name="Li", Company="Acme", Website=None)) == set()
    assert told("leads", Id="00QA", Name="Li", IsDeleted=True).entities[0].properties == {"deleted": True}
    loser = told("leads", Id="00QA", Name="Li", Email="li@acme.test", IsDeleted=True, MasterRecordId="00QB")
    assert (loser.own, loser.entities[0].aliases) == (f"{NS}:lead:00QA", (f"{NS}:lead:00QB",))


def test_a_lead_that_was_converted_is_the_contact_that_it_became():
    became = {"ConvertedContactId": "003A", "ConvertedAccountId": "001A", "ConvertedOpportunityId": "006A"}
    lead = told("leads", Id="00QA", Name="Li", Email="li@acme.test", Website="acme.test", Status="Qualified", **became)
    own = lead.entities[0]
    assert (lead.own, own.key, own.aliases) == (f"{NS}:lead:00QA", f"{NS}:lead:00QA", (f"{NS}:contact:003A",))
    assert own.properties is not None
    assert own.properties["Status"] == "Qualified"
    assert lead.later < 0, "the contact's word counts"
    assert said(lead) == {("works_at", f"{NS}:account:001A"), ("^with", f"{NS}:opportunity:006A")}


def test_an_account_that_is_a_person_is_one_with_its_contact():
    account = told(
        "accounts", Id="001P", Name="Pat", PersonEmail="pat@home.test", IsPersonAccount=True, PersonContactId="003P"
    ).entities[0]
    half = told("contacts", Id="003P", Name="Pat", AccountId="001P", Account={"Name": "Pat", "IsPersonAccount": True})
    assert (account.kind, account.key) == ("person", "person:email:pat@home.test")
    assert set(account.aliases) == {f"{NS}:account:001P", f"{NS}:contact:003P"}
    assert (account.properties or {})["Email"] == "pat@home.test"
    assert (half.own, half.entities[0].aliases) == (f"{NS}:contact:003P", (f"{NS}:account:001P",))
    assert said(half) == set(), "nobody works at oneself"
    firm = told("accounts", Id="001A", Name="Acme", IsPersonAccount=False, PersonContactId=None, PersonEmail=None)
    assert firm.entities[0].kind == "organization"


async def test_an_org_whose_accounts_are_firms_only_says_so_once_a_window(monkeypatch: pytest.MonkeyPatch):
    """There the fields do not exist."""
    whole = TABLES["account"]
    columns = tuple(column for column in whole.columns if "Person" not in column)
    monkeypatch.setitem(TABLES, "account", dataclasses.replace(whole, columns=columns))
    async with staged("salesforce") as stage:
        accounts = SALESFORCE.stream("accounts")
        before = len(stage.app.control.log)
        read = await stage.read(accounts)
        assert read.ids == stage.truth(accounts, ALL)
        assert len(stage.app.control.log) - before == 2
        assert {graph.entities[0].kind for graph in read.graphs(NS)} == {"organization"}


def test_an_event_was_attended_by_its_owner_with_somebody_about_something():
    event = told(
        "events", Id="00UA", Subject="Demo", StartDateTime="2026-03-01T09:00:00.000+0000", Location="Köln", IsChild=True,
        WhoId="003A", Who={"Name": "Cy", "Email": None}, WhatId="006A", What={"Name": "A deal"},
        Description="Ask bo@acme.test", **OWNER,
    )  # fmt: skip
    assert (event.entities[0].kind, event.own) == ("event", f"{NS}:event:00UA")
    assert (event.entities[0].properties or {})["StartDateTime"] == "2026-03-01T09:00:00.000+0000"
    assert said(event) == {
        ("^attended", f"{NS}:user:005A"),
        ("with", f"{NS}:contact:003A"),
        ("about", f"{NS}:opportunity:006A"),
        ("mentions", "person:email:bo@acme.test"),
    }


def test_a_part_in_a_deal_is_the_deals_and_says_nothing_else_of_it():
    part = {"OpportunityId": "006A", "Opportunity": {"Name": "A deal"}, "ContactId": "003A", "Role": "Evaluator"}
    role = told("contact_roles", Id="00KA", SystemModstamp="2026-03-01T09:00:00.000+0000", **part)
    assert (role.own, role.entities[0].kind, role.entities[0].properties) == (f"{NS}:opportunity:006A", "deal", {})
    assert utc("2026-03-01T09:00:00.000+0000") + timedelta(microseconds=role.later) == EPOCH
    assert said(role) == {("with", f"{NS}:contact:003A")}
    gone = told("contact_roles", Id="00KA", SystemModstamp="2026-03-01T09:00:00.000+0000", IsDeleted=True, **part)
    assert said(gone) == set()


async def test_a_field_that_the_user_may_not_see_costs_only_itself(monkeypatch: pytest.MonkeyPatch):
    """Field-level security: Salesforce refuses the whole query for one column that a profile hides, or a parent that it can't reach."""
    for table, hidden, parents in (
        ("contact", {"Phone", "Title"}, {"Owner": ("Name", "Email")}),
        ("opportunity", {"Amount"}, {"Account": ("Name",), "Owner": ("Name",)}),
    ):
        whole = TABLES[table]
        columns = tuple(column for column in whole.columns if column not in hidden)
        monkeypatch.setitem(TABLES, table, dataclasses.replace(whole, columns=columns, parents=parents))
    async with staged("salesforce") as stage:
        for name in ("contacts", "opportunities"):
            stream = SALESFORCE.stream(name)
            read = await stage.read(stream)
            assert read.ids == stage.truth(stream, ALL)
            payloads = [record.payload for record, _ in read.rows.values()]
            assert all(payload["Name"] for payload in payloads)
            assert not any({"Phone", "Title", "Amount"} & set(payload) for payload in payloads)


async def test_an_amount_is_in_its_own_currency_where_an_org_has_several(monkeypatch: pytest.MonkeyPatch):
    """Where it has one, its objects have no such column."""
    stream, whole = SALESFORCE.stream("opportunities"), TABLES["opportunity"]
    async with staged("salesforce") as stage:
        several = (await stage.read(stream)).graphs(stage.namespace)
        columns = tuple(column for column in whole.columns if column != "CurrencyIsoCode")
        monkeypatch.setitem(TABLES, "opportunity", dataclasses.replace(whole, columns=columns))
        one = (await stage.read(stream)).graphs(stage.namespace)
    told_of = [
        {(graph.entities[0].properties or {}).get("CurrencyIsoCode") for graph in read} for read in (several, one)
    ]
    assert told_of == [{"EUR", "JPY"}, {None}]
    assert [graph.own for graph in several] == [graph.own for graph in one]


async def test_a_field_that_nothing_goes_without_is_missed_in_words(monkeypatch: pytest.MonkeyPatch):
    whole = TABLES["contact"]
    columns = tuple(column for column in whole.columns if column != "SystemModstamp")
    monkeypatch.setitem(TABLES, "contact", dataclasses.replace(whole, columns=columns))
    async with staged("salesforce") as stage:
        with pytest.raises(AccessDenied, match="No such column 'SystemModstamp' on entity 'Contact'"):
            await SALESFORCE.stream("contacts").fetch(stage.api(), WHOLE, ALL, None)


def test_what_is_missing_is_said_without_the_query_that_salesforce_repeats_before():
    said = "\nSELECT Id, Amount FROM Opportunity\n           ^\nERROR at Row:1:Column:12\nNo such column 'Amount' on entity 'Opportunity'."
    found = SALESFORCE.classify(Reply(400, {}, [{"errorCode": "INVALID_FIELD", "message": said}], said, ""))
    assert isinstance(found, AccessDenied)
    assert "SELECT" not in str(found)
    for words in (said, "No such column 'Amount' on sobject of type Opportunity"):
        found = SALESFORCE.classify(Reply(400, {}, [{"errorCode": "INVALID_FIELD", "message": words}], words, ""))
        assert isinstance(found, _Hidden)
        assert found.without(["Id", "Amount", "Account.Amount"], "Opportunity") == ["Id", "Account.Amount"]


@pytest.mark.parametrize("code", ["QUERY_TIMEOUT", "OPERATION_TOO_LARGE"])
def test_a_span_that_is_too_much_for_salesforce_is_asked_for_in_parts(code: str):
    """Its Object Reference on tasks and events: refactor your query to return or scan a smaller amount of data."""
    words = "exceeded 100000 distinct who/what's"
    found = SALESFORCE.classify(Reply(400, {}, [{"errorCode": code, "message": words}], words, ""))
    assert type(found) is WindowTooLarge
    assert "Salesforce" in str(found)


def test_a_contact_that_was_merged_is_the_one_that_it_was_merged_into():
    """A merge deletes the losers, at the time at which it changes the winner; they often have one address."""
    loser = told("contacts", Id="003A", Name="Cy", Email="cy@acme.test", IsDeleted=True, MasterRecordId="003B")
    winner = told("contacts", Id="003B", Name="Cy", Email="cy@acme.test", IsDeleted=False, MasterRecordId=None)
    own = loser.entities[0]
    assert (own.key, own.aliases) == (f"{NS}:contact:003A", (f"{NS}:contact:003B",))
    assert own.properties is not None
    assert "deleted" not in own.properties
    assert loser.later < winner.later
    account = told("accounts", Id="001A", Name="Acme", Website="acme.test", IsDeleted=True, MasterRecordId="001B")
    assert (account.own, account.entities[0].aliases) == (f"{NS}:account:001A", (f"{NS}:account:001B",))
    assert told("contacts", Id="003C", Name="Di", IsDeleted=True).entities[0].properties == {"deleted": True}


async def test_a_case_that_was_merged_is_the_one_that_it_was_merged_into():
    """Where an org has the others deleted, as its Case Merge does unless they are to stay with a status of their own."""
    async with staged("salesforce") as stage:
        rows = [record.payload for record, _ in (await stage.read(SALESFORCE.stream("cases"))).rows.values()]
    assert "MasterRecordId" in rows[0]
    loser = told("cases", Id="500A", Subject="No power", IsDeleted=True, MasterRecordId="500B", ContactId="003A")
    own = loser.entities[0]
    assert (own.key, own.aliases, own.properties) == (f"{NS}:case:500A", (f"{NS}:case:500B",), {})
    assert not loser.relationships
    assert told("cases", Id="500C", Subject="No light", IsDeleted=True).entities[0].properties == {"deleted": True}


async def test_who_the_token_belongs_to_is_refused_in_words_of_its_own_once_it_has_expired():
    """`userinfo` says so by 403 and a word of plain text, where the rest of the API says 401."""
    async with staged("salesforce") as stage:
        await stage.control(expire="salesforce")
        before = stage.refreshed
        assert (await SALESFORCE.identify(stage.api())).external_id
        assert stage.refreshed == before + 1
        gone = Reply(403, {}, None, "Bad_OAuth_Token", "")
        assert isinstance(SALESFORCE.classify(gone), ReauthRequired)


def test_a_part_in_a_deal_takes_nothing_from_the_deals_own_record_whichever_is_younger():
    deal = {"Id": "006A", "Name": "A deal", "Amount": 5.0, "SystemModstamp": "2026-01-01T00:00:00.000+0000"}
    part = {
        "Id": "00KA",
        "OpportunityId": "006A",
        "ContactId": "003A",
        "SystemModstamp": "2026-02-01T00:00:00.000+0000",
    }
    tenant, connection, told_of = b"t" * 16, b"c" * 16, {}
    for stream in ("contact_roles", "opportunities"):
        row = part if stream == "contact_roles" else deal
        rows, _ = record_rows([_CHANGED(row)], connection, stream)
        found = graph_rows([row[:3] for row in rows], SALESFORCE.stream(stream).extract, Context(NS), Ids(tenant))
        told_of[stream] = found.entities[entity_id(tenant, f"{NS}:opportunity:006A")]
    assert (told_of["opportunities"].as_of or 0) > (told_of["contact_roles"].as_of or 0) == instant(EPOCH)
    assert b"Amount" in told_of["opportunities"].properties
