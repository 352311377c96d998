"""Whether an error says that the database is away: of an outage, where a bug wants its traceback."""

from __future__ import annotations

from psycopg import OperationalError

AGAIN_AFTER = 10  # seconds after which whoever asked may ask again
# SQLSTATEs of connections that were refused or ended: they broke, the server stops or starts, it has no more of them.
REFUSED_OR_ENDED = ("08", "57P", "53300")


def why_away(error: BaseException | None) -> str:
    """In a line, by what the error was raised from; "" for all other errors, those of a statement included."""
    while error is not None:
        # Without an SQLSTATE it is psycopg's own: it got no connection, or lost the one that it had.
        if isinstance(error, OperationalError) and (error.sqlstate or "08").startswith(REFUSED_OR_ENDED):
            return " ".join(str(error).split()) or type(error).__name__
        error = error.__cause__
    return ""
