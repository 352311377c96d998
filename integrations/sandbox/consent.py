"""The page on which a person grants access, for all providers."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import urlencode

from integrations.sandbox.tokens import Tokens
from integrations.sandbox.wire import Request, Response, html

STYLE = b"""
:root{color-scheme:light dark;--bg:#f4f5f7;--box:#fff;--line:#d5d9e0;--text:#1a1d23;--muted:#5d6470;--accent:#2f56c9;--on:#fff}
@media(prefers-color-scheme:dark){:root{--bg:#0f1115;--box:#16191f;--line:#343b47;--text:#e8eaee;--muted:#9aa2af;--accent:#88a6ff;--on:#0d1220}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:420px;margin:8vh auto;padding:24px;background:var(--box);border:1px solid var(--line);border-radius:10px}
h1{font-size:19px;margin:0 0 4px}p{margin:0 0 16px;color:var(--muted)}fieldset{border:1px solid var(--line);border-radius:8px;margin:0 0 16px;padding:8px 14px}
legend{padding:0 6px;color:var(--muted);font-size:13px}label{display:flex;gap:10px;padding:6px 0;align-items:center}
ul{margin:0 0 20px;padding-left:20px;overflow-wrap:anywhere}.row{display:flex;gap:10px}button{font:inherit;padding:8px 18px;border-radius:7px;border:1px solid var(--line);background:none;color:inherit;cursor:pointer}
button[value=allow]{background:var(--accent);border-color:var(--accent);color:var(--on);font-weight:600}
button:focus-visible,input:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
"""
_WAY_BACK = re.compile(r"(https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)(?:[/?][!-\"$-~]*)?")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
SCOPES_IN_WORDS = {
    "repo": "Read repositories, issues and pull requests",
    "user:email": "Read your e-mail address",
    "api": "Read your organization's data",
    "refresh_token": "Stay connected while you are away",
    "openid": "Know who you are",
    "email": "Read your e-mail address",
    "channels:read": "See public channels and who is in them",
    "channels:history": "Read messages in public channels",
    "groups:read": "See your private channels",
    "groups:history": "Read messages in your private channels",
    "users:read": "See the people of the workspace",
    "users:read.email": "See their e-mail addresses",
    "files:read": "See files",
    "read:jira-work": "Read projects, issues and what was done on them",
    "read:jira-user": "See the people of the site",
    "read:me": "Know who you are",
    "offline_access": "Stay connected while you are away",
    "https://www.googleapis.com/auth/userinfo.email": "Read your e-mail address",
    "https://www.googleapis.com/auth/gmail.readonly": "Read your mail",
    "https://www.googleapis.com/auth/calendar.readonly": "Read your calendars",
    "oauth": "Stay connected while you are away",
    "read": "Read your data",
    "profile": "Read your profile",
    "User.Read": "Read your profile",
    "Mail.Read": "Read your mail",
    "Calendars.Read": "Read your calendars",
}


def authorize(
    request: Request, tokens: Tokens, provider: str, name: str, accounts: dict[str, str], *, pkce: bool = True
) -> Response:
    """GET shows the page, POST takes the answer. accounts: id -> label, the first one chosen. pkce: the vendor demands it."""
    asked = request.query
    redirect_uri = asked.get("redirect_uri", "")
    if request.method not in ("GET", "POST"):
        return Response(405, {"message": "Method Not Allowed"}, {"Allow": "GET, POST"})
    if asked.get("client_id") != f"sandbox-{provider}":
        return _page(name, "<h1>Unknown application</h1><p>The client id is not known here.</p>", 400)
    # The address goes into a header and a policy, so nothing that could end either is let in.
    way_back = _WAY_BACK.fullmatch(redirect_uri)
    if way_back is None:
        return _page(name, "<h1>No way back</h1><p>The redirect_uri is missing or is no web address.</p>", 400)
    if not asked.get("state"):
        return _redirect(redirect_uri, {"error": "invalid_request", "error_description": "state is required"})
    back = {"state": asked["state"]}
    if asked.get("response_type") != "code":
        return _redirect(redirect_uri, {"error": "unsupported_response_type", **back})
    challenge = asked.get("code_challenge", "")
    if (pkce or challenge) and (not _CHALLENGE.fullmatch(challenge) or asked.get("code_challenge_method") != "S256"):
        return _redirect(
            redirect_uri, {"error": "invalid_request", "error_description": "PKCE with S256 is required", **back}
        )
    if request.method == "POST":
        answer, account = request.form.get("answer"), request.form.get("account", "")
        if answer == "deny":
            return _redirect(
                redirect_uri, {"error": "access_denied", "error_description": "The user denied access", **back}
            )
        if answer != "allow" or account not in accounts:
            return _page(name, "<h1>No answer</h1><p>Choose an account, and allow or deny.</p>", 400)
        return _redirect(redirect_uri, {"code": tokens.issue_code(provider, account, redirect_uri, challenge), **back})
    rows = "".join(
        f'<label><input type="radio" name="account" value="{escape(key)}"{" checked" if i == 0 else ""}> {escape(label)}</label>'
        for i, (key, label) in enumerate(accounts.items())
    )
    scopes = asked.get("scope", "").replace(",", " ").split()
    said = dict.fromkeys(map(_in_words, scopes))
    items = "".join(f"<li>{escape(words)}</li>" for words in said)
    return _page(
        name,
        f"<h1>Atom would like to read your {escape(name)} data</h1><p>This is the sandbox: everything in it is made up.</p>"
        f'<form method="post"><fieldset><legend>As</legend>{rows}</fieldset><ul>{items}</ul>'
        '<div class="row"><button name="answer" value="allow">Allow</button><button name="answer" value="deny">Deny</button></div></form>',
        origin=way_back[1],
    )


def _in_words(scope: str) -> str:
    """What a scope allows; itself, where nothing else is known of it."""
    read = re.fullmatch(r"(?:crm\.objects\.)?([a-z]+)[.:]read", scope)
    return SCOPES_IN_WORDS.get(scope, f"Read {read[1]}" if read else scope)


def _redirect(address: str, query: dict[str, str]) -> Response:
    return Response(302, None, {"Location": address + ("&" if "?" in address else "?") + urlencode(query)})


def _page(name: str, body: str, status: int = 200, origin: str = "") -> Response:
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(name)} (sandbox)</title><link rel="stylesheet" href="/sandbox/style.css"></head><body><main>{body}</main></body></html>'
    )
    policy = f"default-src 'none'; style-src 'self'; form-action 'self' {origin}".strip()
    return html(
        page, status, **{"Content-Security-Policy": policy, "X-Frame-Options": "DENY", "Cache-Control": "no-store"}
    )
