"""What free text mentions: e-mail addresses, and how they become keys; HTML as text. Shared by providers."""

from __future__ import annotations

import re
from html import unescape

MOST_MENTIONS = 50  # of one kind in one text
MOST_TEXT = 100_000  # characters of a text that are looked at
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII)
_VALID_EMAIL = re.compile(r"[^@\s<>()]{1,64}@(?:[^@\s.<>()]{1,63}\.)+[^@\s.<>()]{2,63}")
_TAG = re.compile(r"<(?:style|script)\b.*?</(?:style|script)>|<[^>]*>", re.DOTALL | re.IGNORECASE)
# Domains that say nothing about the organization behind an address or a web site.
SHARED_DOMAINS = frozenset(
    [
        "gmail.com",
        "googlemail.com",
        "outlook.com",
        "hotmail.com",
        "live.com",
        "msn.com",
        "yahoo.com",
        "ymail.com",
        "icloud.com",
        "me.com",
        "mac.com",
        "aol.com",
        "gmx.com",
        "gmx.net",
        "gmx.de",
        "web.de",
        "mail.com",
        "mail.ru",
        "yandex.ru",
        "proton.me",
        "protonmail.com",
        "fastmail.com",
        "qq.com",
        "163.com",
        "github.com",
        "github.io",
        "linkedin.com",
        "facebook.com",
        "twitter.com",
        "x.com",
        "instagram.com",
        "youtube.com",
        "wordpress.com",
        "wixsite.com",
        "sites.google.com",
        "blogspot.com",
        "notion.site",
    ]
)


def email_key(address: object) -> str | None:
    """The person's key for an e-mail address, None for what is none (or a provider's stand-in for a hidden one)."""
    if not isinstance(address, str):
        return None
    address = address.strip().lower()
    if not _VALID_EMAIL.fullmatch(address) or address.endswith("noreply.github.com"):
        return None
    return f"person:email:{address}"


def domain_key(website: object) -> str | None:
    """The organization's key for a web address, None when the domain is shared by many."""
    if not isinstance(website, str):
        return None
    host = website.strip().lower().partition("://")[2] or website.strip().lower()
    host = re.split(r"[/?#:]", host, maxsplit=1)[0].removeprefix("www.").rstrip(".")
    if not re.fullmatch(r"(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}", host) or host in SHARED_DOMAINS:
        return None
    return f"org:domain:{host}"


def mentioned_emails(text: str | None) -> list[str]:
    """Keys of the people whose addresses stand in the text, each once."""
    if not text or "@" not in text:
        return []
    keys = dict.fromkeys(email_key(match) for match in _EMAIL.findall(text)[:MOST_MENTIONS])
    return [key for key in keys if key]


def plain(html: str) -> str:
    """HTML as text, without what is not for people."""
    return unescape(_TAG.sub(" ", html[:MOST_TEXT]))


def one_line(html: object) -> str:
    """HTML, or anything else, as one line of text; None is empty."""
    return " ".join(plain(str(html or "")).split())
