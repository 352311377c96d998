"""Whether DATABASE_URL leads to PostgreSQL itself.

Tenants are kept apart by what a connection is set to: its role from its start, its tenant later. A pooler in between (PgBouncer, in
whatever mode) refuses what a connection asks for at its start or drops it, and where it pools by transactions one client finds what another
has set. All of it looks well until one tenant reads another's rows, so it is found out before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from secrets import token_hex
from typing import Any, NamedTuple

import psycopg
from environs import EnvError

CONNECT_SECONDS = 5
SETTING = "atom.session"  # which nobody else sets

_is_direct = False


class Answer(NamedTuple):
    """Which of the connections was asked, by what it was set to at its start; what it is set to by now; and by whom it was answered."""

    asked: str
    found: str | None
    pid: int


def refuse_pooler(arguments: dict[str, Any]) -> None:
    """Raises EnvError where psycopg's `arguments` lead to a pooler; asks once a process. A database that does not answer is left to
    those who are about to connect."""
    global _is_direct
    if _is_direct:
        return
    try:
        what = in_between(ask(arguments))
    except psycopg.OperationalError as error:
        if "unsupported startup parameter" not in str(error):  # PgBouncer's words; it has no code for it
            return
        what = "refuses what connections ask for at their start"
    if what:
        raise EnvError(
            f"DATABASE_URL leads to a pooler such as PgBouncer, which {what}. Tenants are kept apart by the settings of connections, and "
            "Atom has pools of its own: give it the address of PostgreSQL itself."
        )
    _is_direct = True


def ask(arguments: dict[str, Any]) -> list[Answer]:
    """What two connections that are open at once say of themselves, the first of them before, between and after."""
    names = [token_hex(8), token_hex(8)]
    with ExitStack() as opened:
        connections = [
            opened.enter_context(
                psycopg.connect(
                    **{
                        "connect_timeout": CONNECT_SECONDS,
                        **arguments,
                        "options": f"{arguments.get('options', '')} -c {SETTING}={name}",
                    },
                    autocommit=True,
                )
            )
            for name in names
        ]
        answers = []
        for number in (0, 0, 1, 0):
            row = (
                connections[number].execute("SELECT current_setting(%s, true), pg_backend_pid()", [SETTING]).fetchone()
            )
            assert row is not None
            answers.append(Answer(names[number], *row))
        return answers


def in_between(answers: Sequence[Answer]) -> str:
    """What a pooler does to connections that answered like this; "" where each is a session of its own, begun as it asked to."""
    if any(answer.found != answer.asked for answer in answers):
        return "drops what connections ask for at their start"
    if len({(answer.asked, answer.pid) for answer in answers}) != len({answer.asked for answer in answers}):
        return "passes a connection's statements to one server process after another"
    if len({answer.pid for answer in answers}) != len({answer.asked for answer in answers}):
        return "has one server process for several connections"
    return ""
