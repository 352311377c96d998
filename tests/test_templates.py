"""What templates may rely on (`atom.templating`), and the dialogs that no other test without a browser opens."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import messages
from django.contrib.messages.storage.cookie import CookieStorage
from django.http import HttpResponse
from django.template.loader import get_template, render_to_string
from django.test import Client, RequestFactory
from django.urls import reverse, set_script_prefix
from django.utils.html import format_html
from django.utils.safestring import mark_safe
from jinja2 import UndefinedError

from atom.templating import url
from atom.tenancy import tenant_scope
from atom.views import refusal
from atom.words import plain, truncatechars
from historical_sync import states
from integrations import narrowing
from integrations.providers import PROVIDERS
from integrations.providers.base import Partition
from tests.conftest import PROJECT
from tests.graphs import make_connection, make_job


def test_every_template_of_the_site_can_be_read_and_belongs_to_jinja() -> None:
    folder = PROJECT / "templates"
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.*")]
    assert len(names) > 50
    for name in names:
        assert type(get_template(name)).__module__ == "django.template.backends.jinja2", name
    assert type(get_template("admin/index.html")).__module__ == "django.template.backends.django"


def test_the_style_sheet_has_classes_only_that_some_page_has() -> None:
    sheet = (PROJECT / "static" / "atom" / "atom.css").read_text()
    selectors = re.sub(r"(?s)/\*.*?\*/|\{[^{}]*\}", " ", sheet)
    classes = set(re.findall(r"\.([a-z][\w-]*)", selectors))
    assert len(classes) > 150
    sources = [path for folder in ("templates", "static", "atom", "historical_sync") for path in (PROJECT / folder).rglob("*")]  # fmt: skip
    named = {word for path in sources if path.suffix in (".html", ".js", ".py") for word in re.findall(r"[\w-]+", path.read_text())}  # fmt: skip
    made = {f"mark-{slug}" for slug in PROVIDERS} | {"htmx-request"}
    assert classes - named - made == set()


def test_every_form_that_changes_something_holds_the_token_and_its_workspace() -> None:
    forms = [
        form
        for path in (PROJECT / "templates").rglob("*.html")
        for form in re.findall(r'(?s)<form [^>]*method="post".*?</form>', path.read_text())
    ]
    assert len(forms) > 25
    for form in forms:
        assert "{{ csrf_input }}" in form, form


def test_a_name_that_nobody_passed_is_an_error() -> None:
    assert "<strong>Not now.</strong>" in render_to_string("_refused.html", {"title": "Not now", "words": ""})
    with pytest.raises(UndefinedError, match="words"):
        render_to_string("_refused.html", {"title": "Not now"})


def test_everything_is_escaped_but_what_is_markup() -> None:
    html = render_to_string("_refused.html", {"title": "<b>'\"&", "words": format_html("<i>{}</i>", "<")})
    assert "<strong>&lt;b&gt;&#39;&#34;&amp;.</strong>" in html
    assert "<i>&lt;</i>" in html
    assert render_to_string("workspace/invitation.txt", _invitation("R&D <1>")).startswith(
        "Hello,\n\nAlice made you a member of R&D <1> in Atom.\n\nSign in as usual:\n\nhttps://atom.test\n"
    )


def _invitation(tenant: str) -> dict[str, Any]:
    actor = SimpleNamespace(label="Alice", tenant=tenant)
    return {"actor": actor, "new": False, "address": "https://atom.test", "days": 3, "single_sign_on": ""}


def test_a_notice_of_the_admins_keeps_its_link() -> None:
    """The admin's go to whatever page is asked for next."""
    request = RequestFactory().get("/")
    request._messages = CookieStorage(request)  # type: ignore[attr-defined]
    messages.success(request, mark_safe('The tenant “<a href="/admin/">Globex</a>” was changed.'))
    messages.success(request, "R&D")
    page = refusal(request, "Not here", "Nothing.").content.decode()
    assert '“<a href="/admin/">Globex</a>” was changed.' in page
    assert "R&amp;D" in page


def test_addresses_are_those_of_the_views() -> None:
    some = uuid4()
    assert url("jobs") == reverse("jobs") == "/jobs"
    assert url("job", some) == reverse("job", args=[some]) == f"/jobs/{some}"
    assert url("import", some) == reverse("import", args=[some])
    assert url("connect-start", "github") == reverse("connect-start", args=["github"])
    try:
        set_script_prefix("/below/")
        assert url("job", some) == f"/below/jobs/{some}"
    finally:
        set_script_prefix("/")
    assert url("job", some) == f"/jobs/{some}"


@pytest.mark.parametrize("length", [0, 4, 5, 6, 40])
def test_long_texts_end_in_an_ellipsis(length: int) -> None:
    from django.template import defaultfilters

    for text in ("a" * length, "é" * length, "e\u0301" * length):
        assert truncatechars(text, 5) == defaultfilters.truncatechars(text, 5)


def test_numbers_are_shown_without_an_exponent() -> None:
    assert [plain(value) for value in (1e22, 1.5e-7, 2.5, 7, "1e5", None)] == [
        "10000000000000000000000", "0.00000015", 2.5, 7, "1e5", None,
    ]  # fmt: skip


def test_one_token_serves_all_forms_of_a_page(cast: SimpleNamespace, signed_in: Any) -> None:
    fields = re.findall(
        r'name="csrfmiddlewaretoken" value="(\w+)"', signed_in(cast.alice).get("/settings/members").content.decode()
    )
    assert len(fields) > 3
    assert len(set(fields)) == 1


# -- dialogs --------------------------------------------------------------------------------------------------------------

HTMX = {"HX-Request": "true"}


def text_of(reply: HttpResponse) -> str:
    assert reply.status_code == 200, reply
    return reply.content.decode()


def test_cancelling_is_asked_on_a_page_or_in_a_dialog_and_answered_by_what_changed(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status=states.PENDING)
    client: Client = signed_in(cast.bob)
    for headers in ({}, HTMX):
        text = text_of(client.get(f"/jobs/{job.id}/cancel", headers=headers))
        assert "Cancel this import?" in text
        assert f'<p class="muted">{job.connection}, ' in text, "one of several in a list"
        assert ("<!doctype html>" in text) is not bool(headers)
    text = text_of(client.post(f"/jobs/{job.id}/cancel", headers=HTMX))
    for part in (
        f'id="job-{job.id}"',
        f'id="connection-{job.connection_id}-live"',
        'id="running-indicator"',
        "job-live",
    ):
        assert part in text


def test_the_choice_of_parts_is_a_page_or_a_dialog_that_goes_on_to_the_offer(
    cast: SimpleNamespace, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Partition("1", "acme/web"), Partition("2", "")]
    monkeypatch.setattr("integrations.views.listed", lambda connection: narrowing.Listed(parts, []))
    monkeypatch.setattr("integrations.narrowing.parts_of", lambda connection: parts)
    with tenant_scope(cast.acme.id):
        path = f"/connections/{make_connection(cast.acme).id}/parts"
    client: Client = signed_in(cast.alice)
    for headers in ({}, HTMX):
        text = text_of(client.get(path, headers=headers))
        assert "Repositories to bring in" in text
        assert '<span class="clip">2</span>' in text
    assert "Saved" in text_of(client.post(path, {"only": ["1"]}, headers=HTMX))
    assert 'value="1" checked' in text_of(client.get(path))
    assert 'role="alert"' in text_of(client.post(path, {"only": ["3"]}, headers=HTMX))


def test_who_chooses_parts_from_the_offer_finds_there_what_was_chosen_before(
    cast: SimpleNamespace, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Partition("1", "acme/web")]
    monkeypatch.setattr("integrations.views.listed", lambda connection: narrowing.Listed(parts, []))
    monkeypatch.setattr("integrations.narrowing.parts_of", lambda connection: parts)
    with tenant_scope(cast.acme.id):
        path = f"/connections/{make_connection(cast.acme).id}"
    alice = signed_in(cast.alice)
    chosen = {"start": "2026-10-01", "end": "2026-10-31", "streams": ["issues", "commits"], "prompt": "1"}
    offer = f"{path}/import?start=2026-10-01&end=2026-10-31&streams=issues&streams=commits&prompt=1"
    escaped = offer.replace("&", "&amp;")
    dialog = alice.get(f"{path}/parts", chosen, headers={"HX-Request": "true"}).content.decode()
    assert re.findall(r'<a [^>]*hx-get="([^"]+)"[^>]*>Leave as it is', dialog) == [escaped]
    kept = re.findall(r'<input type="hidden" name="(start|end|streams|prompt)" value="([^"]*)">', dialog)
    assert len(kept) == 5
    saved = alice.post(f"{path}/parts", {**chosen, "all": "1"}, headers={"HX-Request": "true"}).content.decode()
    assert f'hx-get="{escaped}"' in saved
    assert alice.post(f"{path}/parts", {**chosen, "all": "1"}).headers["Location"] == offer
    again = alice.get(offer, headers={"HX-Request": "true"}).content.decode()
    assert 'name="start" value="2026-10-01"' in again
    assert 'name="end" value="2026-10-31"' in again
    assert re.findall(r'value="(\w+)" checked', again) == ["issues", "commits"]
    assert 'name="prompt" value="1"' in again
