"""Who is who in Salesforce's rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from integrations.errors import AccessDenied, ReauthRequired
from integrations.http import Reply
from integrations.providers.base import WHOLE, Context, Graph
from integrations.providers.salesforce import SALESFORCE, _Hidden
from integrations.sandbox.salesforce_rows import TABLES
from tests.contract.stage import ALL, staged

NS = "salesforce@00D1"
ACCOUNT = {"AccountId": "001A", "Account": {"Name": "Acme", "Website": "https://acme.test"}}
OWNER = {"OwnerId": "005A", "Owner": {"Name": "Ana", "Email": "ana@seller.test"}}


def told(stream: str, **row: Any) -> Graph:
    return SALESFORCE.stream(stream).extract({"Id": "500A", **row}, Context(NS))


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


def test_the_things_own_records_say_it():
    account = told("accounts", Id="001A", Name="Acme", Website="https://acme.test").entities[0]
    assert (account.key, account.aliases) == ("org:domain:acme.test", (f"{NS}:account:001A",))
    contact = told("contacts", Id="003A", Name="Cy", Email="cy@acme.test").entities[0]
    assert (contact.key, contact.aliases) == ("person:email:cy@acme.test", (f"{NS}:contact:003A",))


def test_users_and_leads_which_have_none_are_known_by_their_address():
    found = told("tasks", Id="00TA", WhoId="00QA", Who={"Name": "Li", "Email": "li@lead.test"}, **OWNER)
    assert {e.key for e in found.entities[1:]} == {"person:email:ana@seller.test", "person:email:li@lead.test"}


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


async def test_who_the_token_belongs_to_is_refused_in_words_of_its_own_once_it_has_expired():
    """`userinfo` says so by 403 and a word of plain text, where the rest of the API says 401."""
    async with staged("salesforce") as stage:
        await stage.control(expire="salesforce")
        before = stage.refreshed
        assert (await SALESFORCE.identify(stage.api())).external_id
        assert stage.refreshed == before + 1
        gone = Reply(403, {}, None, "Bad_OAuth_Token", "")
        assert isinstance(SALESFORCE.classify(gone), ReauthRequired)
