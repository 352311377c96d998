"""O365, as others wrote it, against Microsoft Graph's stand-in. It signs in by MSAL, which knows Microsoft's own hosts only, so
its tokens are put into its cache, and the token endpoint is asked by authlib's client."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from O365 import Account, MSGraphProtocol
from O365.utils.token import MemoryTokenBackend
from requests import HTTPError

from integrations.sandbox.microsoft365 import Microsoft365
from integrations.sandbox.tokens import Tokens

OWNER = next(iter(Microsoft365.accounts))


def token(kind: str, grant: str = "client") -> str:
    prefix = Microsoft365.prefix if kind == "access" else Microsoft365.refresh_prefix
    return Tokens().make(prefix, "microsoft365", OWNER, kind, grant)


@pytest.fixture
def account(sandbox: Any) -> Any:
    class Here(MSGraphProtocol):
        _protocol_url = f"{sandbox.root}/microsoft365/"

    cache = MemoryTokenBackend()
    answer = {"access_token": token("access"), "expires_in": 3600, "token_type": "Bearer"}
    endpoint = "https://login.microsoftonline.com/common/oauth2/v2.0/token"
    cache.add({"client_id": "c", "scope": ["Mail.Read"], "token_endpoint": endpoint, "response": answer})
    found = Account(
        ("c", "secret"), protocol=Here(timezone="UTC"), token_backend=cache, requests_delay=0, request_retries=0
    )
    assert found.is_authenticated
    yield found
    if found.con.session is not None:
        found.con.session.close()


def test_it_says_whose_the_token_is(account: Any):
    me = account.directory(resource="me").get_current_user()
    assert me.object_id == OWNER
    assert me.mail.endswith("@northwind.test")


def everything_in(folder: Any) -> list[Any]:
    return [one for inner in folder.get_folders() for one in (inner, *everything_in(inner))]


def test_it_walks_the_tree_of_folders(account: Any, sandbox: Any):
    found = [folder.name for folder in everything_in(account.mailbox())]
    assert len(found) == len(set(found)) == sandbox.truth("microsoft365")["folders"]
    assert {"Inbox", "Kunden", "Größere"} <= set(found)
    junk = account.mailbox().junk_folder()
    assert junk.refresh_folder()
    assert junk.name == "Junk-E-Mail"


def test_it_walks_a_span_of_the_mailbox_oldest_first(account: Any, sandbox: Any):
    mailbox = account.mailbox()
    every = list(mailbox.get_messages(limit=None, batch=100))
    assert len({message.object_id for message in every}) == len(every)
    top = {folder.name: folder for folder in mailbox.get_folders()}
    others = [top["Junk-E-Mail"], top["Deleted Items"], *everything_in(mailbox.deleted_folder())]
    not_mail = {folder.folder_id for folder in others}
    sent = [message for message in every if not message.is_draft and message.folder_id not in not_mail]
    assert len(every) > len(sent) == sandbox.truth("microsoft365")["messages"]
    newest = [message.received for message in every]
    assert newest == sorted(newest, reverse=True)
    middle = newest[len(newest) // 2]
    asked = f"receivedDateTime ge {middle:%Y-%m-%dT%H:%M:%SZ}"
    late = list(mailbox.get_messages(limit=None, batch=50, query=asked, order_by="receivedDateTime asc"))
    assert [message.received for message in late] == sorted(moment for moment in newest if moment >= middle)
    assert late[0].subject is None or isinstance(late[0].subject, str)
    assert any(message.sender.address.endswith("@northwind.test") for message in late)


def test_a_filter_must_begin_with_what_is_sorted_by(account: Any):
    with pytest.raises(HTTPError, match="400"):
        list(account.mailbox().get_messages(query="isRead eq true", order_by="receivedDateTime asc"))


def test_it_walks_the_view_of_every_calendar(account: Any, sandbox: Any):
    calendars = list(account.schedule().list_calendars())
    assert len(calendars) == sandbox.truth("microsoft365")["calendars"]
    now, found = datetime.now(UTC), 0
    for calendar in calendars:
        span = {"start_recurring": now - timedelta(days=500), "end_recurring": now + timedelta(days=9)}
        rows = list(calendar.get_events(limit=None, batch=20, **span))
        assert len({row.object_id for row in rows}) == len(rows)
        assert [row.start for row in rows] == sorted(row.start for row in rows)
        assert any(row.is_all_day for row in rows) == (calendar.name != "Calendar")
        found += len(rows)
    assert found == sandbox.truth("microsoft365")["events"]


def test_a_limit_is_told_with_its_end(account: Any, sandbox: Any):
    sandbox.control(rate_limit_every=1, retry_after=9)
    with pytest.raises(HTTPError) as caught:
        account.mailbox().get_messages(limit=1)
    assert (caught.value.response.status_code, caught.value.response.headers["Retry-After"]) == (429, "9")


def test_a_refresh_brings_another_refresh_token_and_the_used_one_goes_on(sandbox: Any):
    endpoint, used = f"{sandbox.root}/microsoft365/oauth2/v2.0/token", token("refresh", "refreshed")
    how = {"token_endpoint_auth_method": "client_secret_post", "scope": "offline_access Mail.Read"}
    with OAuth2Session("sandbox-microsoft365", "sandbox-secret", **how) as session:
        first = session.refresh_token(endpoint, used)
        second = session.refresh_token(endpoint, used)
        assert len({used, first["refresh_token"], second["refresh_token"]}) == 3
        sandbox.control(revoke="microsoft365")
        with pytest.raises(OAuthError, match="AADSTS50173"):
            session.refresh_token(endpoint, second["refresh_token"])
