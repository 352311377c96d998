"""hubspot-api-client, as HubSpot publishes it, against HubSpot's stand-in."""

from __future__ import annotations

from typing import Any

import pytest
from hubspot import HubSpot
from hubspot.crm.associations.v4 import BatchInputPublicFetchAssociationsBatchRequest as Inputs
from hubspot.crm.contacts.exceptions import ApiException
from hubspot.crm.deals.exceptions import ApiException as DealsException
from hubspot.crm.objects.notes import PublicObjectSearchRequest as NoteSearch

TYPES = ("contacts", "companies", "deals", "tickets")
ENGAGEMENTS = ("calls", "emails", "meetings", "notes", "tasks")


@pytest.fixture
def client(sandbox: Any) -> HubSpot:
    return HubSpot(access_token="pat-eu1-sandbox", host=f"{sandbox.root}/hubspot")


def searched(api: Any, request: dict[str, Any]) -> list[Any]:
    """All results of a search, by offsets."""
    rows: list[Any] = []
    after = "0"
    while True:
        reply = api.do_search({**request, "limit": 50, "after": after})
        rows += reply.results
        if reply.paging is None:
            assert reply.total == len(rows)
            return rows
        after = reply.paging.next.after


def between(prop: str, since: str, until: str) -> list[dict[str, Any]]:
    return [
        {
            "filters": [
                {"propertyName": prop, "operator": "GTE", "value": since},
                {"propertyName": prop, "operator": "LT", "value": until},
            ]
        }
    ]


def test_it_walks_every_type_to_its_end(client: HubSpot, sandbox: Any) -> None:
    truth = sandbox.truth("hubspot")
    for name in TYPES:
        rows = getattr(client.crm, name).get_all()
        assert len({row.id for row in rows}) == len(rows) == truth[name], name
        assert not any(row.archived for row in rows)
        assert all(row.properties["hs_object_id"] == row.id for row in rows)
    for name in ENGAGEMENTS:
        rows = client.crm.objects.get_all(name)
        assert len({row.id for row in rows}) == truth[name], name


def test_it_searches_a_span_of_time_by_id(client: HubSpot, sandbox: Any) -> None:
    rows = client.crm.contacts.get_all(properties=["email"])
    changed = sorted(row.updated_at for row in rows)
    edge, last = changed[len(changed) // 3], changed[-1]
    ms = [str(round(moment.timestamp() * 1000)) for moment in (edge, last)]
    asked = {
        "filterGroups": between("lastmodifieddate", *ms),
        "sorts": [{"propertyName": "hs_object_id", "direction": "ASCENDING"}],
        "properties": ["email", "no_such_property"],
    }
    found = searched(client.crm.contacts.search_api, asked)
    assert {row.id for row in found} == {row.id for row in rows if edge <= row.updated_at < last}
    assert [int(row.id) for row in found] == sorted(int(row.id) for row in found)
    assert {"email", "hs_object_id", "lastmodifieddate"} <= set(found[0].properties)
    assert "no_such_property" not in found[0].properties


def test_it_searches_engagements_by_what_they_hold(client: HubSpot) -> None:
    request = NoteSearch(
        filter_groups=[{"filters": [{"propertyName": "hs_note_body", "operator": "NOT_HAS_PROPERTY"}]}],
        properties=["hs_note_body"],
        limit=200,
    )
    found = client.crm.objects.notes.search_api.do_search(request)
    assert all(row.properties["hs_note_body"] is None for row in found.results)


def test_ten_thousand_results_are_the_end_of_a_search(client: HubSpot) -> None:
    with pytest.raises(ApiException) as caught:
        client.crm.contacts.search_api.do_search({"limit": 100, "after": "9950"})
    assert caught.value.status == 400
    assert "VALIDATION_ERROR" in caught.value.body


def test_it_reads_associations_in_batches(client: HubSpot) -> None:
    deals = client.crm.deals.get_all()
    inputs = Inputs(inputs=[{"id": row.id} for row in deals])
    found = client.crm.associations.v4.batch_api.get_page("deals", "contacts", inputs)
    contacts = {row.id for row in client.crm.contacts.get_all()}
    linked = {result._from.id: [to.to_object_id for to in result.to] for result in found.results}
    assert linked
    assert set(linked) < {row.id for row in deals}, "every deal has contacts"
    assert {str(other) for others in linked.values() for other in others} <= contacts
    assert max(map(len, linked.values())) > 1


def test_it_lists_owners_and_what_was_archived(client: HubSpot, sandbox: Any) -> None:
    truth = sandbox.truth("hubspot")
    here = client.crm.owners.owners_api.get_page(limit=100).results
    gone = client.crm.owners.owners_api.get_page(limit=100, archived=True).results
    assert len(here) + len(gone) == truth["owners"]
    assert all(owner.email and not owner.archived for owner in here)
    assert all(owner.archived and owner.user_id is None for owner in gone)
    binned = [row for name in (*TYPES, *ENGAGEMENTS) for row in client.crm.objects.get_all(name, archived=True)]
    assert len(binned) == truth["archived"]
    assert all(row.archived and row.archived_at for row in binned)


def test_it_understands_what_is_refused(client: HubSpot, sandbox: Any) -> None:
    sandbox.control(deny=["hubspot.deals"])
    with pytest.raises(DealsException) as caught:
        client.crm.deals.basic_api.get_page()
    assert caught.value.status == 403
    assert "MISSING_SCOPES" in caught.value.body
    sandbox.control(reset=True)
    sandbox.control(rate_limit_every=1)
    with pytest.raises(DealsException) as caught:
        client.crm.deals.basic_api.get_page()
    assert caught.value.status == 429
    sandbox.control(reset=True)
    with pytest.raises(DealsException) as caught:
        HubSpot(access_token="nobody", host=f"{sandbox.root}/hubspot").crm.deals.basic_api.get_page()
    assert caught.value.status == 401
