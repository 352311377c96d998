"""What free text mentions: e-mail addresses, and how they become keys; HTML as text. Shared by providers."""

from __future__ import annotations

import re
from html import unescape

MOST_MENTIONS = 50  # of one kind in one text
MOST_TEXT = 100_000  # characters of a text that are looked at
LONGEST_HOST = 253  # characters (RFC 1035)
LONGEST_ADDRESS = 254  # of an e-mail address (RFC 5321)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII)
_VALID_EMAIL = re.compile(r"[^@\s<>()]{1,64}@(?:[^@\s.<>()]{1,63}\.)+[^@\s.<>()]{2,63}")
# A style that nothing ends reaches to the end, as in browsers: each would be looked through to there.
_TAG = re.compile(r"<(?:style|script)(?=[\s/>]).*?(?:</(?:style|script)>|\Z)|<[^>]*>", re.DOTALL | re.IGNORECASE)
# Domains that say nothing about the organization behind an address or a web site, and nor does any subdomain of theirs: mail for
# everybody, networks, maps, shops, short links.
_SHARED = """
    163.com aol.com fastmail.com gmail.com gmx.com gmx.net googlemail.com hey.com icloud.com live.com mac.com mail.com mail.ru me.com
    msn.com proton.me protonmail.com qq.com rocketmail.com t-online.de web.de ymail.com
    live.at live.be live.ca live.cn live.co.uk live.com.au live.com.mx live.com.pt live.de live.dk live.fr live.ie live.in live.it
    live.jp live.nl live.no live.ru live.se

    behance.net bitbucket.org bsky.app clutch.co crunchbase.com discord.com discord.gg dribbble.com facebook.com fb.com fb.me
    flickr.com github.com gitlab.com glassdoor.com instagram.com linkedin.com meetup.com messenger.com pinterest.com quora.com
    reddit.com slideshare.net snapchat.com soundcloud.com t.me telegram.me threads.net tiktok.com tripadvisor.com
    twitch.tv twitter.com vimeo.com vk.com wa.me weibo.com whatsapp.com wikipedia.org x.com xing.com yelp.com youtu.be youtube.com

    about.me apps.apple.com beacons.ai bit.ly calendly.com etsy.com forms.gle g.page goo.gl google.com itunes.apple.com linktr.ee
    lnkd.in open.spotify.com ow.ly t.co tinyurl.com
"""
SHARED_DOMAINS = frozenset(_SHARED.split())
# Those whose subdomain is the organization's own site: only the bare domain says nothing.
_BUILDERS = """
    blogspot.com business.site carrd.co github.io gitlab.io herokuapp.com medium.com myshopify.com netlify.app notion.site pages.dev
    squarespace.com substack.com tumblr.com vercel.app web.app webflow.io weebly.com wixsite.com wordpress.com
"""
_SITE_BUILDERS = frozenset(_BUILDERS.split())
# Mail for everybody that has a domain in each country: yahoo.co.uk, outlook.de.
_NATIONAL = re.compile(r"(?:.+\.)?(?:aol|gmx|hotmail|outlook|yahoo|yandex|ymail)\.(?:com?\.)?[a-z]{2,3}")


def email_key(address: object) -> str | None:
    """The person's key for an e-mail address, None for what is none (or a provider's stand-in for a hidden one)."""
    if not isinstance(address, str):
        return None
    address = address.strip().lower()
    if len(address) > LONGEST_ADDRESS or not _VALID_EMAIL.fullmatch(address) or address.endswith("noreply.github.com"):
        return None
    return f"person:email:{address}"


def domain_key(website: object) -> str | None:
    """The organization's key for a web address, None when the domain is shared by many."""
    if not isinstance(website, str):
        return None
    host = website.strip().lower().partition("://")[2] or website.strip().lower()
    host = re.split(r"[/?#:]", host, maxsplit=1)[0].removeprefix("www.").rstrip(".")
    if len(host) > LONGEST_HOST or not re.fullmatch(r"(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}", host) or _is_shared(host):
        return None
    return f"org:domain:{host}"


def _is_shared(host: str) -> bool:
    if host in _SITE_BUILDERS or _NATIONAL.fullmatch(host):
        return True
    labels = host.split(".")
    return any(".".join(labels[start:]) in SHARED_DOMAINS for start in range(len(labels) - 1))


def mentioned_emails(text: str | None) -> list[str]:
    """Keys of the people whose addresses stand in the text, each once."""
    if not text or "@" not in text:
        return []
    keys = dict.fromkeys(email_key(match) for match in _EMAIL.findall(text)[:MOST_MENTIONS])
    return [key for key in keys if key]


def plain(html: str) -> str:
    """HTML as text, without what is not for people."""
    text = html[:MOST_TEXT]
    end = text.rfind(">") + 1  # behind it no tag ends, and each "<" there would be looked after to the end
    return unescape(_TAG.sub(" ", text[:end]) + text[end:])


def one_line(html: object) -> str:
    """HTML, or anything else, as one line of text; None is empty."""
    return " ".join(plain(str(html or "")).split())
