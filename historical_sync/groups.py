"""Which keys are one thing, and which of them stands for it. Pure.

Every pair of keys of which a record says that they are one thing is kept (`EntityAlias`); the pairs' closure are the groups, each stood for by
its least key, to which the others' `merged_into` points. A handle is no such pair: it leads to the least group that uses it. The way of a pair:

    extraction.graph_rows      hears of it
    leads_of_new               says what the batch alone tells of keys that turn out to be new,
    entities.write_entities    so that these are written as merged
    merging.merge              joins the groups of all others, under the tenant's merge lock, and points the handles
    tidying._regroup           makes groups anew of the pairs that are left, when a record has gone or says less

Why it ends the same in any order: docs/decisions/0005-graph-of-records.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar
from uuid import UUID

from historical_sync.extraction import EntityRow

Node = TypeVar("Node", bytes, UUID)  # an entity's id


def key_rank(key: str) -> tuple[int, str]:
    """Order of the keys of one thing: the least stands for it. Keys that mean the same in every provider come first."""
    return (0 if key.startswith(("person:", "org:")) else 1, key)


# The same in SQL. {e}: the row's alias.
KEY_RANK = "(NOT (starts_with({e}.key, 'person:') OR starts_with({e}.key, 'org:'))), {e}.key COLLATE \"C\""


def joined_by(
    pairs: Iterable[tuple[Node, Node]], before: Mapping[Node, Node], keys: Mapping[Node, str]
) -> dict[Node, Node]:
    """Which node stands for each one when each pair is one thing: of a group the one with the least key. before: which did so far."""
    parent = dict(before)

    def root(node: Node) -> Node:
        while parent[node] != node:
            node = parent[node]
        return node

    for pair in pairs:
        one, other = sorted(map(root, pair), key=lambda node: key_rank(keys[node]))
        parent[other] = one
    return {node: root(node) for node in parent}


def leads_of_new(
    aliases: Mapping[tuple[bytes, bytes], bool], entities: Mapping[bytes, EntityRow]
) -> dict[bytes, bytes]:
    """Of which entities a batch's keys are others, for those that turn out to be new. aliases, entities: as in `extraction.GraphRows`.

    What is new is in no group yet, and of two keys that are one thing the lesser stands for both, or what that leads to.
    """
    found: dict[bytes, bytes] = {}
    for (alias, node), proof in aliases.items():
        if alias not in entities or alias in found:
            continue
        if not proof or (node in entities and key_rank(entities[node].key) < key_rank(entities[alias].key)):
            found[alias] = node
    # Not by way of a third one: where that leads is known once it is written.
    return {alias: node for alias, node in found.items() if node not in found}
