"""What comes in: records, what they say, and the things that they speak of."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from atom.models import Tenant
from historical_sync.fields import JsonTextField
from integrations.models import Connection


class SyncRecord(models.Model):
    """One record as the provider sent it. `id` is computed from (connection, stream, external_id): see `identity.py`.

    `entity_id` is the entity that the record is about. What the record says of it: `link_kinds`, words in a row ("part_of ^authored"),
    says how it relates to the entity at the same place of `link_ids`; "^" before a word that reads from there to here. They lie in
    the record because they come, change and go with it, which makes a record one row instead of six.

    Foreign keys of the tables that grow without bound are not checked by the database: a page's rows are written together, and a
    check a row would cost more than the row.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    connection = models.ForeignKey(
        Connection, on_delete=models.CASCADE, related_name="records", db_index=False, db_constraint=False
    )
    job_id = models.UUIDField(help_text="The job that last wrote it.")
    stream = models.CharField(max_length=60)
    partition = models.CharField(max_length=255, blank=True)
    external_id = models.CharField(max_length=512)
    occurred_at = models.DateTimeField()
    entity_id = models.UUIDField(null=True)
    link_kinds = models.TextField(blank=True, default="")
    link_ids = ArrayField(models.UUIDField(), blank=True, default=list)
    payload = JsonTextField()
    content_hash = models.UUIDField(editable=False)
    stored_at = models.DateTimeField(db_default=Now())
    gone_at = models.DateTimeField(
        null=True, help_text="When its provider said that it is there no more; null while it is not known to be gone."
    )

    class Meta:
        app_label = "historical_sync"
        # No second unique key: the id is made from (connection, stream, external_id), so its own says the same.
        indexes = [
            models.Index(fields=["connection", "id"], name="record_of_connection"),
            models.Index(fields=["entity_id"], name="record_of_entity"),
            GinIndex(fields=["link_ids"], name="record_links"),
            models.Index(fields=["entity_id"], condition=Q(gone_at__isnull=False), name="record_gone"),
        ]

    def __str__(self) -> str:
        return f"{self.stream} {self.external_id}"

    def statements(self) -> list[Statement]:
        """What it says, in order."""
        own, found = self.entity_id, []
        for position, (kind, other) in enumerate(zip(self.link_kinds.split(), self.link_ids, strict=True), 1):
            assert own is not None, "what is said is said of something"
            source, target = (other, own) if kind.startswith("^") else (own, other)
            found.append(Statement(self.connection_id, self.id, position, kind.removeprefix("^"), source, target))
        return found


class Statement(NamedTuple):
    """What a record says at a position: `source` `kind` `target`. Either end may be a key that was merged into another."""

    connection_id: uuid.UUID
    record_id: uuid.UUID
    position: int
    kind: str
    source_id: uuid.UUID
    target_id: uuid.UUID

    @property
    def place(self) -> tuple[uuid.UUID, uuid.UUID, int]:
        """Where it stands among all of the tenant's."""
        return self.connection_id, self.record_id, self.position


class Entity(models.Model):
    """A node of the tenant's graph. `id` is computed from (tenant, key).

    A thing that goes by several keys has a row for each; the others point to the one that stands for it in `merged_into`.
    as_of, record_id: the record that `properties` come from; null for an entity that was only mentioned.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    kind = models.CharField(max_length=40)
    key = models.CharField(max_length=600)
    name = models.TextField()
    properties = models.JSONField(default=dict)
    as_of = models.DateTimeField(null=True)
    record_id = models.UUIDField(null=True)
    merged_into = models.UUIDField(null=True)

    class Meta:
        app_label = "historical_sync"
        verbose_name_plural = "entities"
        indexes = [
            models.Index(fields=["merged_into"], condition=Q(merged_into__isnull=False), name="entity_merged"),
            models.Index(fields=["tenant", "kind", "id"], condition=Q(merged_into__isnull=True), name="entity_listing"),
        ]

    def __str__(self) -> str:
        return self.called

    @property
    def called(self) -> str:
        """Its name, for people: tools have things without one, and a link needs words."""
        return self.name if self.name.strip() else "Without a name"


class EntityAlias(models.Model):
    """Some record says that `alias` is another key of `entity`: kept, so that who goes by which key can be found anew.

    proof: both are one thing. Without, the alias is a handle, which leads to who uses it and is nobody's key.
    """

    pk = models.CompositePrimaryKey("alias_id", "entity_id")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    alias_id = models.UUIDField()
    entity_id = models.UUIDField()
    proof = models.BooleanField()

    class Meta:
        app_label = "historical_sync"
        verbose_name_plural = "entity aliases"
        indexes = [models.Index(fields=["entity_id"], name="alias_of_entity")]

    def __str__(self) -> str:
        return f"{self.alias_id} is {self.entity_id}"


class Address(models.Model):
    """A web address by which records mention a thing whose key does not follow from it: statements have its `id` as their target.

    id: computed from (tenant, key), as an entity's. within_id: the handle of what the thing lies in. leads_to: a key of the thing,
    which may have been merged or not have arrived; null while nobody has said where the handle leads.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    key = models.CharField(max_length=600)
    within_id = models.UUIDField()
    leads_to = models.UUIDField(null=True)

    class Meta:
        app_label = "historical_sync"
        verbose_name_plural = "addresses"
        indexes = [
            models.Index(fields=["within_id"], name="address_within"),
            models.Index(fields=["leads_to"], name="address_leads_to"),
        ]

    def __str__(self) -> str:
        return self.key


class Relationship(models.Model):
    """A statement of one record: `source` `kind` `target`. A view of what records say (`SyncRecord.link_kinds`).

    One end is what the record is about. Either end may be an entity that has not arrived yet, or a key that was merged into
    another. To find the statements about an entity, ask `graph.py`: the view itself reads record by record.
    """

    pk = models.CompositePrimaryKey("record_id", "position")
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING, related_name="+")
    record_id = models.UUIDField()
    position = models.BigIntegerField()
    kind = models.TextField()
    source_id = models.UUIDField()
    target_id = models.UUIDField()

    class Meta:
        app_label = "historical_sync"
        managed = False
        db_table = "historical_sync_relationship"

    def __str__(self) -> str:
        return f"{self.source_id} {self.kind} {self.target_id}"


class GraphGeneration(models.Model):
    """How often something was taken out of the tenant's graph: what a worker remembers of it from before is void."""

    tenant = models.OneToOneField(Tenant, primary_key=True, on_delete=models.CASCADE, related_name="+")
    number = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.number)


class StaleEntity(models.Model):
    """An entity of which a record no longer says what it said: what is left of it has to be found anew.

    aliases: those that the record no longer tells of; null: any of them may be without a witness.
    """

    entity_id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    aliases = ArrayField(models.UUIDField(), null=True)

    class Meta:
        app_label = "historical_sync"
        verbose_name_plural = "stale entities"

    def __str__(self) -> str:
        return str(self.entity_id)
