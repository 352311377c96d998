"""Whose an id is: the prefix of a connection's keys in the graph."""

from __future__ import annotations

import dataclasses

import pytest

from integrations.gateway import namespace
from integrations.providers import PROVIDERS
from integrations.providers.github import GITHUB

BY_ACCOUNT = dataclasses.replace(GITHUB, ids_by_account=True)


def test_ids_that_are_unique_in_the_whole_service_are_shared_by_all_its_connections():
    assert namespace(GITHUB, "", "583231") == "github"


def test_ids_of_a_self_hosted_server_are_its_own():
    assert namespace(GITHUB, "https://git.acme.test/api/v3", "git.acme.test:1") == "github@git.acme.test"


def test_ids_that_repeat_from_account_to_account_carry_the_account():
    assert namespace(BY_ACCOUNT, "", "T01") == "github@T01"
    assert namespace(BY_ACCOUNT, "", "T02") == "github@T02"


@pytest.mark.parametrize("slug", ["salesforce", "stripe"])
def test_test_data_keeps_to_itself(slug: str) -> None:
    """A sandbox or test mode is another account, with ids that are its model's too."""
    provider = PROVIDERS[slug]
    assert namespace(provider, "", "acct_1") != namespace(provider, "", "acct_1:test")
