"""Transactions that PostgreSQL chose to give way to another."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import OperationalError, connection
from psycopg import errors

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
TRIES = 3


def again_after_giving_way(action: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """The action, whose database work is one transaction, again when that was ended for the sake of another (a deadlock): it left no
    trace. Within a transaction of the caller's, all of which is lost then, it raises."""

    @wraps(action)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        for left in reversed(range(TRIES)):
            try:
                return action(*args, **kwargs)
            except OperationalError as error:
                gave_way = isinstance(error.__cause__, errors.DeadlockDetected | errors.SerializationFailure)
                if not gave_way or not left or connection.in_atomic_block:
                    raise
        raise AssertionError("unreachable")

    return run
