"""What the README says is so, and what operators are told of the vendors' apps."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse

from historical_sync import graph_api
from historical_sync.delivering import BACK_OFF
from integrations import outgoing
from integrations.gateway import needed_variables
from integrations.providers import PROVIDERS
from tests import vocabulary
from tests.processes import PROJECT
from tests.providers.test_health import asked_of

README = (PROJECT / "README.md").read_text()
PACKAGES = ("atom", "integrations", "historical_sync")
# Tests stop a process at a named place with it; it is refused in production.
OF_THE_TESTS = {"ATOM_FAULT_POINT"}


def read_by_the_code() -> set[str]:
    names: set[str] = set()
    for package in PACKAGES:
        for source in (PROJECT / package).rglob("*.py"):
            names |= set(re.findall(r"(?:env\.\w+|environ\.get)\(\s*\"([A-Z_]+)\"", source.read_text()))
    return names - OF_THE_TESTS


def test_every_environment_variable_is_in_the_readme_and_no_other() -> None:
    described = set(re.findall(r"`((?:ATOM_|DATABASE_URL|REDIS_URL|PORT)[A-Z_]*)`", README))
    wanted = read_by_the_code()
    assert len(wanted) > 20
    assert wanted - described == set()
    assert described - wanted == set()


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/api.md",
        "docs/graph.md",
        "docs/oauth-apps.md",
        "docs/providers.md",
        "docs/single-sign-on.md",
    ],
)
def test_links_lead_to_files_that_are_there(name: str) -> None:
    page = PROJECT / name
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_files_that_the_readme_names_are_there() -> None:
    for path in re.findall(
        r"`((?:atom|integrations|historical_sync|tests|templates|static|docs|bench)/[\w./]*)`", README
    ):
        assert (PROJECT / path).exists(), path


def test_the_commands_that_the_readme_names_are_there() -> None:
    from django.core.management import get_commands

    named = set(re.findall(r"manage\.py (\w+)", README))
    assert {"migrate", "create_tenant", "sync_worker", "connect", "sync_history"} <= named
    assert named <= set(get_commands())
    makefile = (PROJECT / "Makefile").read_text()
    for target in re.findall(r"make (run|test|lint|bench|format|requirements)\b", README):
        assert f"\n{target}:" in makefile


def test_the_graph_is_described_as_the_streams_make_it() -> None:
    """`python -m tests.vocabulary` writes it anew."""
    told = vocabulary.PAGE.read_text()
    assert told.partition(vocabulary.BEGIN)[2].partition(vocabulary.END)[0] == vocabulary.tables()


def test_the_api_is_described_as_it_is() -> None:
    """Its codes, and the times between tries of a webhook; the examples run in `tests.test_up`."""
    told = (PROJECT / "docs" / "api.md").read_text()
    codes = set(re.findall(r"`([a-z_]+)`", told.partition("## Refusals")[2])) - {"code", "detail", "attr"}
    sources = "".join(path.read_text() for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
    of_the_framework = {"not_authenticated", "authentication_failed", "permission_denied", "not_found", "not_acceptable", "unsupported_media_type", "throttled", "method_not_allowed", "required", "not_a_list", "parse_error", "provider_"}  # fmt: skip
    assert {code for code in codes - of_the_framework if f'"{code}"' not in sources} == set()
    refused = set(re.findall(r'(?:Refused|InvalidInput|_plan_refusal)\(\s*"([a-z_]+)"', sources))
    assert refused - codes == {"too_many_endpoints"}, "which no program meets"
    assert "5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20\nand 24 hours" in told
    assert [delay.total_seconds() for delay in BACK_OFF] == [5, 300, 1800, *(3600 * n for n in (2, 5, 10, 14, 20, 24))]
    assert outgoing.SECONDS == 15.0
    assert f"its newest {graph_api.PAGE} records" in told


# What operators are told of each vendor's app, by the provider's name as the README has it.
APPS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", (PROJECT / "docs/oauth-apps.md").read_text(), re.MULTILINE))


def app_of(slug: str) -> str:
    return next(text for name, text in APPS.items() if name.startswith(PROVIDERS[slug].name))


def test_every_providers_app_is_told_of_in_the_readmes_order() -> None:
    connected = re.findall(r"^\| ([\w ]+) \| .+ \|$", README.partition("## What it connects")[2], re.MULTILINE)
    assert [name for name in connected if name in APPS] == list(APPS)
    assert len(APPS) == len(PROVIDERS)


@pytest.mark.parametrize("slug", PROVIDERS)
def test_an_apps_callback_variables_and_scopes_are_those_that_the_code_has(slug: str) -> None:
    text, provider = app_of(slug), PROVIDERS[slug]
    assert re.findall(r"https://YOUR-HOST(/[\w/-]+)", text) == [reverse("connect-callback", args=[slug])]
    named = set(re.findall(r"ATOM_PROVIDER_\w+", text))
    own = {f"ATOM_PROVIDER_{slug.upper()}_{name}" for name in ("BASE_URL", "AUTH_URL")}
    assert named - own == set(needed_variables(provider))
    table = text.partition("| scope |")[2].partition("\n\n")[0]
    scopes = " ".join(re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(.+?)`", scopes)) == asked_of(provider)
    assert ("By token: not possible." in text) == (provider.token_help is None)


def test_the_license_is_whole() -> None:
    text = (PROJECT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
