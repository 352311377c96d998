"""Addresses of the pages."""

from django.urls import path

from historical_sync.pages import (
    analytics,
    bulk,
    coverage,
    explorer,
    frame,
    integrations,
    jobs,
    notifications,
    schedules,
    styleguide,
)

urlpatterns = [
    path("integrations", integrations.integrations, name="integrations"),
    path("integrations/sync-selected", bulk.sync_selected, name="sync-selected"),
    path("integrations/sync-selected/estimate", bulk.estimate_selected, name="estimate-selected"),
    path("queued/<uuid:queued_id>", bulk.queued, name="queued"),
    path("queued/<uuid:queued_id>/take-back", bulk.take_back, name="queued-take-back"),
    path("connections/<uuid:connection_id>/import", integrations.import_history, name="import"),
    path("connections/<uuid:connection_id>/import/estimate", integrations.import_estimate, name="import-estimate"),
    path("connections/<uuid:connection_id>/sync-new", integrations.sync_new, name="sync-new"),
    path("schedules", schedules.schedules, name="schedules"),
    path("connections/<uuid:connection_id>/schedule", schedules.schedule, name="schedule"),
    path("live", frame.live, name="live"),
    path("jobs", jobs.jobs, name="jobs"),
    path("jobs/<uuid:job_id>", jobs.job, name="job"),
    path("jobs/<uuid:job_id>/live", jobs.job_live, name="job-live"),
    path("jobs/<uuid:job_id>/detail", jobs.job_detail, name="job-detail"),
    path("jobs/<uuid:job_id>/pause", jobs.pause, name="job-pause"),
    path("jobs/<uuid:job_id>/resume", jobs.resume, name="job-resume"),
    path("jobs/<uuid:job_id>/cancel", jobs.cancel, name="job-cancel"),
    path("jobs/<uuid:job_id>/replay", jobs.replay, name="job-replay"),
    path("analytics", analytics.analytics, name="analytics"),
    path("coverage", coverage.overview, name="coverage"),
    path("coverage/<uuid:connection_id>", coverage.of_connection, name="coverage-connection"),
    path("coverage/<uuid:connection_id>/repair", coverage.repair, name="coverage-repair"),
    path("entities", explorer.entities, name="entities"),
    path("entities/<uuid:entity_id>", explorer.entity, name="entity"),
    path("settings/notifications", notifications.notifications, name="notifications"),
    path("settings/webhooks", notifications.webhooks, name="webhooks"),
    path("settings/webhooks/<uuid:endpoint_id>", notifications.webhook, name="webhook"),
    path("settings/webhooks/deliveries/<uuid:delivery_id>/resend", notifications.resend, name="webhook-resend"),
    path("styleguide", styleguide.styleguide, name="styleguide"),
]
