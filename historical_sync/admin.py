"""Jobs and what belongs to them in the admin. Read-only: a job's state changes by its actions, here as everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from procrastinate.contrib.django.admin import ProcrastinateJobAdmin
from procrastinate.contrib.django.models import ProcrastinateJob

from atom.access import Actor, system_actor
from atom.admin import ReadOnly, leads_to, rows_of
from atom.errors import Refused
from atom.tenancy import tenant_scope
from atom.words import days, number, plural, took
from historical_sync import actions, states
from historical_sync.automation import Delivery, Notice, NotificationPreference, QueuedStart, WebhookEndpoint
from historical_sync.models import (
    Coverage,
    HistoricalSyncJob,
    JobEvent,
    QuarantinedRecord,
    SyncChunk,
    SyncSchedule,
)
from historical_sync.progress import describe

admin.site.unregister(ProcrastinateJob)

Action = Callable[[Actor, HistoricalSyncJob], HistoricalSyncJob]


@admin.register(HistoricalSyncJob)
class JobAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    actions = ("cancel", "resume")
    list_display = ("connection", leads_to("tenant"), "state", "records", "range", "created_at", "took", "who")  # fmt: skip
    list_filter = ("status", "control", "pause_reason", "kind", "trigger", "connection__provider_slug", "tenant")
    list_select_related = ("connection", "tenant")
    search_fields = ("=id", "connection__account_label", "tenant__name", "tenant__slug", "created_by_label", "last_error_message")  # fmt: skip
    date_hierarchy = "created_at"
    list_per_page = 50
    fieldsets = (
        (None, {"fields": ("id", "tenant", "connection", "status", "control", "pause_reason", "phase", "percentage", "waiting_until", "parts", "possible")}),
        ("Asked for", {"fields": ("kind", "trigger", "streams", "start_date", "end_date", "full", "idempotency_key", "created_by", "who")}),
        ("Done", {"fields": ("total_chunks", "completed_chunks", "failed_chunks", "total_records_estimate", "estimate_quality", "records_processed", "records_skipped", "records_quarantined", "entities_extracted", "relationships_extracted", "entities_by_kind", "relationships_by_kind")}),
        ("Times", {"fields": ("created_at", "started_at", "completed_at", "took", "retry_count", "revision")}),
        ("What went wrong", {"fields": ("last_error_code", "last_error_message")}),
    )  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [str(name) for _, part in self.fieldsets for name in part["fields"]]

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Who may cancel and resume: whom Django's permissions let change jobs."""
        return request.user.has_perm("historical_sync.change_historicalsyncjob")

    @admin.display(description="What it does")
    def phase(self, job: HistoricalSyncJob) -> str:
        return describe(job).phase

    @admin.display(description="Progress")
    def percentage(self, job: HistoricalSyncJob) -> str:
        return f"{describe(job).percentage} %"

    @admin.display(ordering="status")
    def state(self, job: HistoricalSyncJob) -> str:
        seen = describe(job)
        return seen.phase if job.status == states.COMPLETED else f"{seen.phase} · {seen.percentage} %"

    @admin.display(ordering="records_processed")
    def records(self, job: HistoricalSyncJob) -> str:
        return number(job.records_processed)

    @admin.display(ordering="start_date")
    def range(self, job: HistoricalSyncJob) -> SafeString:
        return format_html('<span class="nowrap">{}</span>', days(job.start_date, job.end_date))

    @admin.display(description="Who", ordering="created_by_label")
    def who(self, job: HistoricalSyncJob) -> str:
        return job.created_by_label

    @admin.display(description="Took")
    def took(self, job: HistoricalSyncJob) -> SafeString:
        return format_html('<span class="nowrap">{}</span>', took(job))

    @admin.display(description="Belonging to it")
    def parts(self, job: HistoricalSyncJob) -> SafeString:
        return rows_of(
            job, "job", historical_sync_syncchunk="chunks", historical_sync_jobevent="events",
            historical_sync_quarantinedrecord="quarantine", historical_sync_notice="notices",
        )  # fmt: skip

    @admin.display(description="What can be done")
    def possible(self, job: HistoricalSyncJob) -> str:
        if job.status in (states.COMPLETED, states.CANCELLED):
            return "Nothing: it is over"
        there = reverse("admin:historical_sync_historicalsyncjob_changelist")
        return format_html('<a href="{}?q={}">Cancel or resume it by an action of the list</a>', there, job.pk)

    @admin.action(description="Cancel the selected jobs", permissions=["operate"])
    def cancel(self, request: HttpRequest, jobs: QuerySet[HistoricalSyncJob]) -> HttpResponse | None:
        if request.POST.get("post"):  # the page below was answered with yes
            self._act(request, jobs, actions.cancel, "cancelled; workers let go at their next page")
            return None
        context = self.admin_site.each_context(request) | {
            "title": "Cancel jobs",
            "jobs": [(job, self.state(job)) for job in jobs],
            "opts": self.opts,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "media": self.media,
        }
        return TemplateResponse(request, "admin/historical_sync/historicalsyncjob/cancel_confirmation.html", context)

    @admin.action(description="Resume the selected jobs", permissions=["operate"])
    def resume(self, request: HttpRequest, jobs: QuerySet[HistoricalSyncJob]) -> None:
        self._act(request, jobs, actions.resume, "resumed")

    def _act(self, request: HttpRequest, jobs: QuerySet[HistoricalSyncJob], action: Action, done: str) -> None:
        """Acts on each job as the deployment, in the job's tenant; says which it could not and why."""
        count = 0
        for job in jobs.select_related("tenant", "connection"):
            with tenant_scope(job.tenant_id):
                try:
                    action(system_actor(job.tenant, f"{request.user} (admin)"), job)
                    count += 1
                except Refused as error:
                    self.message_user(request, f"{job}: {error.detail}", messages.WARNING)
        if count:
            self.message_user(request, f"{plural(count, 'job,jobs')} {done}.", messages.SUCCESS)


@admin.register(SyncChunk)
class ChunkAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("stream", "partition_label", leads_to("job"), "status", "share", "records_processed", "records_skipped", "attempts", "since", "until", "error_message")  # fmt: skip
    list_filter = ("status", "stream", "job__connection__provider_slug")
    list_select_related = ("job__connection",)
    search_fields = ("=id", "=job__id", "stream", "partition_label", "error_code", "error_message")
    ordering = ("-since",)
    list_per_page = 100
    show_full_result_count = False
    exclude = ("lease",)

    @admin.display(description="Progress", ordering="progress")
    def share(self, chunk: SyncChunk) -> str:
        return f"{100 * chunk.progress:.0f} %"


@admin.register(QuarantinedRecord)
class QuarantineAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Why a record could not be mapped. What it holds stays sealed."""

    list_display = ("stream", "external_id", "reason", leads_to("job"), "created_at", "replayed_at")
    list_filter = ("stream", "job__connection__provider_slug", "tenant")
    list_select_related = ("job__connection",)
    search_fields = ("=id", "=job__id", "external_id", "reason")
    date_hierarchy = "created_at"
    show_full_result_count = False
    exclude = ("sealed_payload",)


@admin.register(JobEvent)
class EventAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("at", "actor", "kind", "detail", leads_to("job"))
    list_filter = ("kind", "tenant")
    list_select_related = ("job__connection",)
    search_fields = ("=job__id", "actor", "detail")
    date_hierarchy = "at"
    ordering = ("-at",)
    show_full_result_count = False


@admin.register(Coverage)
class CoverageAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("connection", "stream", "partition", "spans")
    list_filter = ("stream", "connection__provider_slug", "tenant")
    list_select_related = ("connection",)
    search_fields = ("connection__account_label", "stream", "partition")
    exclude = ("ranges",)
    readonly_fields = ("spans",)

    @admin.display(description="What is in")
    def spans(self, row: Coverage) -> str:
        # What is read whole has no beginning.
        return ", ".join(
            f"{f'{span.lower:%d %b %Y %H:%M}' if span.lower else 'the beginning'} to {span.upper:%d %b %Y %H:%M}"
            for span in row.ranges
        )


@admin.register(SyncSchedule)
class ScheduleAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "connection",
        "interval",
        "hour",
        "weekday",
        "enabled",
        "next_run_at",
        "last_run_at",
        "last_result",
        "last_detail",
    )
    list_filter = ("enabled", "last_result", "connection__provider_slug", "tenant")
    list_select_related = ("connection",)
    search_fields = ("=id", "connection__account_label", "last_detail")


@admin.register(QueuedStart)
class QueuedStartAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("connection", leads_to("tenant"), "reason", "refused", "created_by_label", "created_at")
    list_filter = ("refused", "tenant")
    list_select_related = ("connection", "tenant")
    search_fields = ("=id", "connection__account_label", "reason")


@admin.register(Notice)
class NoticeAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("at", "event", leads_to("job"), leads_to("tenant"), "spread_at")
    list_filter = ("event", "tenant")
    list_select_related = ("job__connection", "tenant")
    search_fields = ("=id", "=job__id")
    show_full_result_count = False


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("notice", leads_to("endpoint"), "membership", "status", "attempts", "response_code", "detail", "next_attempt_at", "created_at")  # fmt: skip
    list_filter = ("status", "tenant")
    list_select_related = ("notice", "endpoint", "membership__user", "membership__tenant")
    search_fields = ("=id", "=notice__job__id", "endpoint__url")
    show_full_result_count = False


@admin.register(WebhookEndpoint)
class EndpointAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Where tenants are told. Their secrets stay sealed, and keys in an address unseen."""

    list_display = (
        "address",
        leads_to("tenant"),
        "events",
        "enabled",
        "failing_since",
        "disabled_reason",
        "created_at",
    )
    list_filter = ("enabled", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("=id", "url")
    # Named one by one, so that no new field gets onto the page unseen.
    fields = ("address", "tenant", "events", "enabled", "failing_since", "disabled_reason", "created_by_label", "created_at")  # fmt: skip
    readonly_fields = fields


@admin.register(NotificationPreference)
class PreferenceAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("membership", "completed", "failed", "paused", "paused_by_hand")
    list_filter = ("tenant",)
    list_select_related = ("membership__user", "membership__tenant")
    search_fields = ("membership__user__email",)


@admin.register(ProcrastinateJob)
class QueueAdmin(ProcrastinateJobAdmin):
    """The queue. The library's actions are left out: who may look could take an import's entries away; and so are filters that
    list every lock that there is."""

    actions = []
    list_filter = ["status", "queue_name", "task_name"]
