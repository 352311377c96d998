"""As much of GraphQL as the stand-ins need: one operation with variables, arguments, aliases and selections; no fragments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]
# Type name -> field -> what it is: "" a scalar, "Type" an object, "[Type]" a list of them.
Schema = Mapping[str, Mapping[str, str]]
_TOKEN = re.compile(
    r"""[\s,]+|\#[^\n]*|(?P<token>[A-Za-z_]\w*|"(?:\\.|[^"\\\n])*"|-?\d+(?:\.\d+)?|\.\.\.|[{}()\[\]:!$=@])"""
)
DEEPEST = 12


class GraphqlError(Exception):
    """The document is wrong; says why."""


@dataclass(frozen=True)
class Variable:
    name: str


@dataclass(frozen=True)
class Selection:
    """One chosen field: `answer` is its name in the answer."""

    name: str
    answer: str
    arguments: JSON
    selections: list[Selection] = field(default_factory=list)


def parse(document: str, variables: Mapping[str, Any]) -> list[Selection]:
    """The operation's selections, with the variables put in. Raises GraphqlError."""
    return _Parser(document, variables).operation()


class _Parser:
    def __init__(self, document: str, variables: Mapping[str, Any]) -> None:
        self.tokens: list[str] = []
        self.variables = dict(variables)
        self.declared: set[str] = set()
        at = 0
        while at < len(document):
            found = _TOKEN.match(document, at)
            if found is None:
                raise GraphqlError(f"Syntax Error: Unexpected character: {document[at]!r}.")
            at = found.end()
            if found["token"]:
                self.tokens.append(found["token"])
        self.tokens.append("")

    def _take(self, wanted: str = "") -> str:
        token = self.tokens.pop(0)
        if (wanted and token != wanted) or not token:
            raise GraphqlError(f"Syntax Error: Expected {wanted or 'more'}, found {token or '<EOF>'}.")
        if not self.tokens:
            raise GraphqlError("Syntax Error: Unexpected <EOF>.")
        return token

    def operation(self) -> list[Selection]:
        if self.tokens[0] == "query":
            self._take()
            if self.tokens[0] not in ("(", "{"):
                self._take()
            if self.tokens[0] == "(":
                self._declarations()
        selections = self._selections(0)
        if self.tokens != [""]:
            raise GraphqlError(f"Syntax Error: Unexpected {self.tokens[0]}.")
        return selections

    def _declarations(self) -> None:
        self._take("(")
        while self.tokens[0] != ")":
            self._take("$")
            name = self._take()
            self._take(":")
            while self.tokens[0] == "[":
                self._take()
            self._take()
            needed = False
            while self.tokens[0] in ("!", "]"):
                needed = self._take() == "!"
            if self.tokens[0] == "=":
                self._take()
                self.variables.setdefault(name, self._value())
            if needed and self.variables.get(name) is None:
                raise GraphqlError(f'Variable "${name}" of required type was not provided.')
            self.declared.add(name)
        self._take(")")

    def _selections(self, depth: int) -> list[Selection]:
        if depth > DEEPEST:
            raise GraphqlError("The query is nested too deeply.")
        self._take("{")
        found = []
        while self.tokens[0] != "}":
            name = answer = self._name()
            if self.tokens[0] == ":":
                self._take()
                name = self._name()
            arguments: JSON = {}
            if self.tokens[0] == "(":
                self._take()
                while self.tokens[0] != ")":
                    key = self._name()
                    self._take(":")
                    value = self._value()
                    if value is not None:
                        arguments[key] = value
                self._take(")")
            inner = self._selections(depth + 1) if self.tokens[0] == "{" else []
            found.append(Selection(name, answer, arguments, inner))
        if not found:
            raise GraphqlError("Syntax Error: Expected Name, found }.")
        self._take("}")
        return found

    def _name(self) -> str:
        name = self._take()
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise GraphqlError(f"Syntax Error: Expected Name, found {name}.")
        return name

    def _value(self) -> Any:
        token = self._take()
        if token == "$":
            name = self._take()
            if name not in self.declared:
                raise GraphqlError(f'Variable "${name}" is not defined.')
            return self.variables.get(name)
        if token == "[":
            found = []
            while self.tokens[0] != "]":
                found.append(self._value())
            self._take("]")
            return found
        if token == "{":
            entries: JSON = {}
            while self.tokens[0] != "}":
                key = self._name()
                self._take(":")
                entries[key] = self._value()
            self._take("}")
            return entries
        if token in ("true", "false", "null"):
            return json.loads(token)
        try:
            return json.loads(token)
        except ValueError:
            return token  # an enum's value


def check(schema: Schema, kind: str, selections: list[Selection]) -> None:
    """Raises GraphqlError for a field that the type does not have, or one whose selection is missing or too much."""
    for chosen in selections:
        if chosen.name == "__typename":
            continue
        fields = schema[kind]
        if chosen.name not in fields:
            raise GraphqlError(f'Cannot query field "{chosen.name}" on type "{kind}".')
        inner = fields[chosen.name].strip("[]")
        if inner and not chosen.selections:
            raise GraphqlError(f'Field "{chosen.name}" of type "{inner}" must have a selection of subfields.')
        if not inner and chosen.selections:
            raise GraphqlError(f'Field "{chosen.name}" must not have a selection since it has no subfields.')
        if inner:
            check(schema, inner, chosen.selections)


def pick(schema: Schema, kind: str, selections: list[Selection], value: Any) -> Any:
    """The chosen fields of a value that holds them all."""
    if value is None:
        return None
    if isinstance(value, list):
        return [pick(schema, kind, selections, entry) for entry in value]
    found: JSON = {}
    for chosen in selections:
        if chosen.name == "__typename":
            found[chosen.answer] = kind
            continue
        inner = schema[kind][chosen.name].strip("[]")
        part = value[chosen.name]
        if inner and isinstance(part, dict) and "nodes" in part and "first" in chosen.arguments:
            part = {**part, "nodes": part["nodes"][: chosen.arguments["first"]]}
        found[chosen.answer] = pick(schema, inner, chosen.selections, part) if inner else part
    return found
