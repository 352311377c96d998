"""The registry: every provider that Atom knows, by slug."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from integrations.errors import Misconfigured
from integrations.providers.asana import ASANA
from integrations.providers.base import Account, Provider, RateBudget
from integrations.providers.github import GITHUB
from integrations.providers.google import GOOGLE
from integrations.providers.hubspot import HUBSPOT
from integrations.providers.intercom import INTERCOM
from integrations.providers.jira import JIRA
from integrations.providers.linear import LINEAR
from integrations.providers.microsoft365 import MICROSOFT365
from integrations.providers.notion import NOTION
from integrations.providers.salesforce import SALESFORCE
from integrations.providers.slack import SLACK
from integrations.providers.stripe import STRIPE
from integrations.providers.zendesk import ZENDESK

if TYPE_CHECKING:
    from integrations.http import Api

# In the order of the integrations page. One a line.
PROVIDERS: dict[str, Provider] = {
    "github": GITHUB,
    "salesforce": SALESFORCE,
    "slack": SLACK,
    "asana": ASANA,
    "hubspot": HUBSPOT,
    "stripe": STRIPE,
    "linear": LINEAR,
    "notion": NOTION,
    "zendesk": ZENDESK,
    "jira": JIRA,
    "intercom": INTERCOM,
    "google": GOOGLE,
    "microsoft365": MICROSOFT365,
}


def get(slug: str) -> Provider:
    """The provider of that slug. Of one that is not registered any more, and left connections and imports: a name, and nothing to import."""
    return PROVIDERS.get(slug) or _former(slug)


@lru_cache(maxsize=64)
def _former(slug: str) -> Provider:
    async def identify(api: Api) -> Account:
        raise Misconfigured(f"Atom knows no {slug} any more.")

    return Provider(
        slug, slug, "", "", (), api_url="", auth_url="", streams=(), identify=identify, budget=RateBudget(1, 1.0, 1)
    )
