"""What Atom does by itself: its tables. Starts that wait for room.

Part of `models.py`, which Django reads; apart for length.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.utils import timezone

from atom.models import Tenant, User
from integrations.models import Connection


class QueuedStart(models.Model):
    """An import that somebody asked for and that waits until there is room for it (`queueing.py`).

    refused: it could not be started when its turn came, for `reason`; somebody has to look at it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    connection = models.OneToOneField(Connection, on_delete=models.CASCADE, related_name="queued_start")
    start_date = models.DateTimeField(null=True, blank=True, help_text="None: the default range.")
    end_date = models.DateTimeField(null=True, blank=True, help_text="None: until it starts.")
    reason = models.TextField(help_text="What it waits for, in words.")
    refused = models.BooleanField(default=False)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    created_by_label = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"{self.connection}: {self.reason}"
