"""Addresses of the REST API, below /api/."""

from django.urls import path

from historical_sync.api import AllJobsFilter
from historical_sync.api import HistoricalSyncViewSet as Jobs
from historical_sync.coverage_api import CoverageViewSet
from historical_sync.graph_api import GraphViewSet as Graph
from historical_sync.job_details_api import JobDetailsViewSet as Details

urlpatterns = [
    path("integrations/<str:integration_id>/historical-sync/start", Jobs.as_view({"post": "start"}), name="api-start"),
    path("integrations/<str:integration_id>/historical-sync/jobs", Jobs.as_view({"get": "jobs"}), name="api-jobs"),
    path(
        "integrations/historical-sync/jobs",
        Jobs.as_view({"get": "all_jobs"}, filterset_class=AllJobsFilter),
        name="api-all-jobs",
    ),
    path("integrations/historical-sync/jobs/<str:job_id>", Jobs.as_view({"get": "job"}), name="api-job"),
    path("integrations/historical-sync/jobs/<str:job_id>/cancel", Jobs.as_view({"post": "cancel"}), name="api-cancel"),
    path("integrations/historical-sync/jobs/<str:job_id>/pause", Jobs.as_view({"post": "pause"}), name="api-pause"),
    path("integrations/historical-sync/jobs/<str:job_id>/resume", Jobs.as_view({"post": "resume"}), name="api-resume"),
    path(
        "integrations/historical-sync/jobs/<str:job_id>/events", Details.as_view({"get": "events"}), name="api-events"
    ),
    path(
        "integrations/historical-sync/jobs/<str:job_id>/failures",
        Details.as_view({"get": "failures"}),
        name="api-failures",
    ),
    path(
        "integrations/historical-sync/jobs/<str:job_id>/quarantined",
        Details.as_view({"get": "quarantined"}),
        name="api-quarantined",
    ),
    path(
        "integrations/historical-sync/jobs/<str:job_id>/replay", Details.as_view({"post": "replay"}), name="api-replay"
    ),
    path("entities", Graph.as_view({"get": "entities"}), name="api-entities"),
    path("entities/<str:entity_id>", Graph.as_view({"get": "entity"}), name="api-entity"),
    path("connections/<str:connection_id>/records", Graph.as_view({"get": "records"}), name="api-records"),
    path("connections/<str:connection_id>/coverage", CoverageViewSet.as_view({"get": "coverage"}), name="api-coverage"),
    path("records/<str:record_id>", Graph.as_view({"get": "record"}), name="api-record"),
    path("relationships", Graph.as_view({"get": "relationships"}), name="api-relationships"),
]
