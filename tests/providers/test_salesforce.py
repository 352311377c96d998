"""Who is who in Salesforce's rows."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.providers.base import Context, Graph
from integrations.providers.salesforce import SALESFORCE

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
