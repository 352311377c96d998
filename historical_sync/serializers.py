"""A job as the API, the socket and the command line show it: the contract's fields, nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from atom.access import Actor, Right
from historical_sync import states
from historical_sync.models import HistoricalSyncJob
from historical_sync.progress import describe


def job_json(job: HistoricalSyncJob, actor: Actor | None = None, now: datetime | None = None) -> dict[str, Any]:
    """The contract's HistoricalSyncJob. `can` is what the job's state and, with an actor, their role allow."""
    progress = describe(job, now)
    may = actor is None or actor.may(Right.OPERATE)
    return {
        "id": str(job.id),
        "integration_id": job.connection.provider_slug,
        "connection_id": str(job.connection_id),
        "status": job.status,
        "control": job.control,
        "pause_reason": job.pause_reason or None,
        "kind": job.kind,
        "trigger": job.trigger,
        "start_date": _time(job.start_date),
        "end_date": _time(job.end_date),
        "streams": list(job.streams),
        "total_chunks": job.total_chunks,
        "completed_chunks": job.completed_chunks,
        "failed_chunks": job.failed_chunks,
        "total_records_estimate": job.total_records_estimate,
        "estimate_quality": job.estimate_quality,
        "records_processed": job.records_processed,
        "records_skipped": job.records_skipped,
        "records_quarantined": job.records_quarantined,
        "entities_extracted": job.brought,
        "relationships_extracted": job.relationships_extracted,
        "entities_by_kind": job.brought_by_kind,
        "relationships_by_kind": {kind: n for kind, n in sorted(job.relationships_by_kind.items()) if n > 0},
        "progress_percentage": progress.percentage,
        "records_per_second": None if progress.records_per_second is None else round(progress.records_per_second, 1),
        "estimated_seconds_remaining": None
        if progress.seconds_remaining is None
        else round(progress.seconds_remaining),
        "waiting_until": _time(progress.waiting_until),
        "last_error": {"code": job.last_error_code, "message": job.last_error_message} if job.last_error_code else None,
        "retry_count": job.retry_count,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "completed_at": _time(job.completed_at),
        "created_by": job.created_by_label or None,
        "can": {
            "cancel": may and states.can_cancel(job.status, job.control),
            "pause": may and states.can_pause(job.status, job.control),
            "resume": may and states.can_resume(job.status),
        },
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
