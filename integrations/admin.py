"""Connections in the admin: to look at, never with a secret. They are made and ended by `integrations.connect`."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from atom.admin import ReadOnly, leads_to, rows_of, yes_or_no
from integrations.models import Connection


@admin.register(Connection)
class ConnectionAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "account_label",
        "provider_name",
        leads_to("tenant"),
        "status",
        "last_success_at",
        "last_error",
        "by_oauth",
    )
    list_display_links = ("account_label",)
    list_filter = ("status", "provider_slug", ("by_oauth", yes_or_no("OAuth")), "sandbox", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("=id", "account_label", "external_account_id", "base_url", "tenant__name", "tenant__slug")
    date_hierarchy = "created_at"
    # Named one by one, so that no new field gets onto the page unseen.
    fields = (
        "id", "tenant", "provider_name", "account_label", "external_account_id", "status", "last_error", "last_success_at",
        "parts", "by_oauth", "sandbox", "scopes", "base_url", "private_host_allowed", "token_expires_at", "prompted_at",
        "budget_left", "budget_limit", "budget_resets_at", "blocked_until", "paced_until", "created_by", "created_at", "updated_at",
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="Belonging to it")
    def parts(self, connection: Connection) -> SafeString:
        return rows_of(
            connection, "connection", historical_sync_historicalsyncjob="jobs", historical_sync_coverage="coverage",
            historical_sync_syncschedule="schedule", historical_sync_queuedstart="start that waits",
            historical_sync_quarantinedrecord="quarantine",
        )  # fmt: skip

    @admin.display(description="Provider", ordering="provider_slug")
    def provider_name(self, connection: Connection) -> str:
        return connection.provider_name
