"""The registry: every provider that Atom knows, by slug."""

from __future__ import annotations

from integrations.providers.asana import ASANA
from integrations.providers.base import Provider
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
    """The provider of that slug; KeyError if there is none."""
    return PROVIDERS[slug]
