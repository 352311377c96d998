"""Errors that people and programs see: one class, stable codes. What the API makes of them: `atom.api_errors`."""

from __future__ import annotations

# Of what is answered while the database is away.
UNAVAILABLE = "unavailable"
UNAVAILABLE_WORDS = "Atom can't reach its database just now. Try again in a moment."


class Refused(Exception):
    """An action was refused; nothing was changed.

    code: stable, see the API contract. detail: for people. attr: the input field at fault, if one is.
    retry_after: seconds, for what will be possible later.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status_code: int = 409,
        attr: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status_code = status_code
        self.attr = attr
        self.retry_after = retry_after


class InvalidInput(Refused):
    """The input is off; `attr` names the field."""

    def __init__(self, code: str, detail: str, attr: str) -> None:
        super().__init__(code, detail, status_code=400, attr=attr)
