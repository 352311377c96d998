"""Placeholder filled below."""


def runs(*, parallel: bool) -> dict:
    return {}
