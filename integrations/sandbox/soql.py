"""The SOQL that an import sends, understood without backtracking: SELECT, FROM, WHERE on SystemModstamp, ORDER BY, LIMIT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from integrations.sandbox.world import seconds_of

MAX_QUERY = 16_000  # characters, about where the real one refuses the address
_WORD = re.compile(r"\s*\b(SELECT|FROM|WHERE|ORDER\s+BY|LIMIT)\b\s*", re.I | re.ASCII)
_CONDITION = re.compile(r"(\w+)\s*(>=|<=|=|>|<)\s*(\S+)", re.ASCII)
_ORDER = re.compile(r"(\w+)(?:\s+(ASC|DESC))?", re.I | re.ASCII)


class SoqlError(Exception):
    """code: Salesforce's errorCode."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Table:
    """columns: own fields; parents: relationship -> its fields."""

    name: str
    columns: Sequence[str]
    parents: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Condition:
    operator: str
    seconds: float


@dataclass(frozen=True)
class Query:
    """fields: (column, "") or (relationship, field), spelled as the table does; None for COUNT()."""

    table: Table
    fields: list[tuple[str, str]] | None
    conditions: list[Condition]
    descending: bool
    limit: int | None


def parse(text: str, tables: dict[str, Table]) -> Query:
    """The query. tables: lower-case name -> table. Raises SoqlError."""
    if len(text) > MAX_QUERY:
        raise SoqlError("MALFORMED_QUERY", "SOQL statements cannot be longer than 16000 characters.")
    parts = _WORD.split(text.strip())
    words = [" ".join(word.upper().split()) for word in parts[1::2]]
    found = dict(zip(words, (part.strip() for part in parts[2::2]), strict=True))
    order = [word for word in ("SELECT", "FROM", "WHERE", "ORDER BY", "LIMIT") if word in found]
    if parts[0] or words != order or "FROM" not in found or not all(found.values()):
        raise SoqlError("MALFORMED_QUERY", f"unexpected token: '{text.strip()[:40] or '<EOF>'}'")
    table = tables.get(found["FROM"].lower())
    if table is None:
        if not re.fullmatch(r"\w+", found["FROM"], re.ASCII):
            raise SoqlError("MALFORMED_QUERY", f"unexpected token: '{found['FROM'][:40]}'")
        raise SoqlError("INVALID_TYPE", f"sObject type '{found['FROM']}' is not supported.")
    count = re.fullmatch(r"COUNT\s*\(\s*\)", found["SELECT"], re.I) is not None
    fields = None if count else [_field(name.strip(), table) for name in found["SELECT"].split(",")]
    where = re.split(r"\s+AND\s+", found["WHERE"], flags=re.I) if "WHERE" in found else []
    limit = found.get("LIMIT")
    if limit is not None and not re.fullmatch(r"[0-9]{1,9}", limit):
        raise SoqlError("MALFORMED_QUERY", f"unexpected token: '{limit[:40]}'")
    return Query(
        table,
        fields,
        [_condition(condition.strip(), table) for condition in where],
        _descending(found.get("ORDER BY"), table),
        None if limit is None else int(limit),
    )


def _field(name: str, table: Table) -> tuple[str, str]:
    head, dot, tail = name.partition(".")
    if not re.fullmatch(r"\w+(\.\w+)?", name, re.ASCII):
        raise SoqlError("MALFORMED_QUERY", f"unexpected token: '{name[:40]}'")
    if not dot:
        return _spelled(head, table.columns, table.name, name), ""
    parent = next((known for known in table.parents if known.lower() == head.lower()), None)
    if parent is None:
        raise SoqlError(
            "INVALID_FIELD",
            f"Didn't understand relationship '{head[:80]}' in field path. If you are attempting to use a custom relationship, be sure "
            "to append the '__r' after the custom relationship name.",
        )
    kind = {"Parent": "Account", "Owner": "User", "Who": "Name", "What": "Name"}.get(parent, parent)
    return parent, _spelled(tail, table.parents[parent], kind, tail)


def _spelled(name: str, known: Sequence[str], entity: str, shown: str) -> str:
    for column in known:
        if column.lower() == name.lower():
            return column
    words = "If you are attempting to use a custom field, be sure to append the '__c' after the custom field name."
    place = f"\nSELECT {shown[:80]} FROM\n       ^\nERROR at Row:1:Column:8\n"
    raise SoqlError("INVALID_FIELD", f"{place}No such column '{shown[:80]}' on entity '{entity}'. {words}")


def _condition(text: str, table: Table) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise SoqlError("MALFORMED_QUERY", f"unexpected token: '{text[:40]}'")
    column = _spelled(found[1], table.columns, table.name, found[1])
    if column != "SystemModstamp":
        raise SoqlError("INVALID_FIELD", f"field '{column}' can not be filtered in a query call")
    seconds = seconds_of(found[3]) if "T" in found[3].upper() else None
    if seconds is None:
        raise SoqlError(
            "INVALID_FIELD",
            f"value of filter criterion for field '{column}' must be of type dateTime and should not be enclosed in quotes",
        )
    return Condition(found[2], seconds)


def _descending(text: str | None, table: Table) -> bool:
    """Rows lie by SystemModstamp and Id; the first column says in which direction they are read."""
    directions = []
    for part in text.split(",") if text is not None else []:
        found = _ORDER.fullmatch(part.strip())
        if found is None:
            raise SoqlError("MALFORMED_QUERY", f"unexpected token: '{part.strip()[:40]}'")
        _spelled(found[1], table.columns, table.name, found[1])
        directions.append((found[2] or "ASC").upper())
    return bool(directions) and directions[0] == "DESC"
