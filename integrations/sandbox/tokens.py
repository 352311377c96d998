"""Codes, tokens and grants. Tokens say themselves what they are, so they outlive a restart; what was taken back does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

_KEY = b"the sandbox hides nothing"
CODE_SECONDS = 600


@dataclass(frozen=True)
class Token:
    provider: str
    account: str
    kind: str  # access or refresh
    grant: str
    issued: int  # ns


@dataclass(frozen=True)
class Code:
    provider: str
    account: str
    redirect_uri: str
    challenge: str
    at: float


class Tokens:
    def __init__(self) -> None:
        self.codes: dict[str, Code] = {}
        # Times in ns: what was issued before them no longer counts.
        self.revoked_grants: dict[str, int] = {}
        self.revoked_accounts: dict[tuple[str, str], int] = {}
        self.refreshed_grants: dict[str, int] = {}
        self.rotated_grants: dict[str, int] = {}
        self.revoked_before: dict[str, int] = {}
        self.expired_before: dict[str, int] = {}

    def make(self, prefix: str, provider: str, account: str, kind: str, grant: str = "") -> str:
        ends = (
            self.revoked_accounts.get((provider, account), 0),
            self.refreshed_grants.get(grant, 0),
            self.rotated_grants.get(grant, 0),
            self.revoked_before.get(provider, 0),
            self.expired_before.get(provider, 0),
        )
        issued = max(time.time_ns(), 1 + max(ends))  # a clock may stand still between an end and what follows it
        text = "|".join((provider, account, kind, grant or secrets.token_hex(8), str(issued)))
        signature = hmac.digest(_KEY, text.encode(), "sha256")[:12]
        return prefix + base64.urlsafe_b64encode(text.encode() + signature).decode().rstrip("=")

    def read(self, prefix: str, token: str, kind: str = "access", *, stale: bool = False) -> Token | None:
        """The token if it is one of ours and still good. stale: it may have expired, for vendors that say so by name."""
        if not token.startswith(prefix) or not token.isascii():
            return None
        body = token[len(prefix) :]
        try:
            raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            text, signature = raw[:-12], raw[-12:]
            if not hmac.compare_digest(hmac.digest(_KEY, text, "sha256")[:12], signature):
                return None
            provider, account, found_kind, grant, issued = text.decode().split("|")
        except ValueError:
            return None
        found = Token(provider, account, found_kind, grant, int(issued))
        gone = max(
            self.revoked_grants.get(grant, 0),
            self.revoked_accounts.get((provider, account), 0),
            self.revoked_before.get(provider, 0),
        )
        if kind == "access" and not stale:
            gone = max(gone, self.refreshed_grants.get(grant, 0), self.expired_before.get(provider, 0))
        elif kind == "refresh":
            gone = max(gone, self.rotated_grants.get(grant, 0))
        return found if found.kind == kind and found.issued > gone else None

    def revoke(self, token: Token, *, all_of_account: bool = False) -> None:
        """Ends the token's grant, whichever of its tokens this is, or all that its account granted."""
        if all_of_account:
            self.revoked_accounts[token.provider, token.account] = time.time_ns()
        else:
            self.revoked_grants[token.grant] = time.time_ns()

    def refreshed(self, token: Token) -> None:
        """Ends the access tokens of the grant so far; the refresh token goes on."""
        self.refreshed_grants[token.grant] = time.time_ns()

    def rotated(self, token: Token) -> None:
        """Ends the refresh tokens of the grant so far; the one that is made next takes their place."""
        self.rotated_grants[token.grant] = time.time_ns()

    def issue_code(self, provider: str, account: str, redirect_uri: str, challenge: str) -> str:
        now = time.time()
        self.codes = {code: about for code, about in self.codes.items() if about.at > now - CODE_SECONDS}
        code = secrets.token_hex(20)
        self.codes[code] = Code(provider, account, redirect_uri, challenge, now)
        return code

    def redeem(self, provider: str, code: str, redirect_uri: str, verifier: str) -> Code | None:
        """What the code stands for; each serves once, right or wrong."""
        about = self.codes.pop(code, None)
        if about is None or about.provider != provider or about.at < time.time() - CODE_SECONDS:
            return None
        if about.redirect_uri != redirect_uri:
            return None
        if not about.challenge:
            return about  # the vendor does without
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        return about if hmac.compare_digest(challenge, about.challenge) else None
