"""Bad days, switched on from outside: latency, limits, errors, broken answers, lost access."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class Faults:
    """`*_every`: each n-th API call; 0 is never. retry_after: seconds. daily_quota: calls, from when it is set; 0 is none.

    rate_limit: calls that GitHub allows in rate_window seconds. page_size: rows that any page holds at most; 0 is the vendor's own.
    cap: results that one query can list, where the vendor caps them; 0 is the vendor's own. delete_every: each n-th row of every
    table is deleted; 0 is none. deny: "provider.stream" of what the token has no permission for, or
    "provider.place" (a site, a workspace).
    """

    latency_ms: float = 0
    jitter_ms: float = 0
    rate_limit_every: int = 0
    retry_after: int = 1
    error_every: int = 0
    truncate_every: int = 0
    html_every: int = 0
    drop_every: int = 0
    daily_quota: int = 0
    rate_limit: int = 5000
    rate_window: int = 3600
    page_size: int = 0
    cap: int = 0
    delete_every: int = 0
    deny: tuple[str, ...] = ()


NAMES = {field.name for field in fields(Faults)}


class Control:
    """The switches, and a log of the last calls."""

    def __init__(self, latency_ms: float = 0) -> None:
        self.faults = Faults(latency_ms=latency_ms)
        self.calls = self.quota_from = 0
        self.log: deque[dict[str, Any]] = deque(maxlen=200)
        self._clear_counts()

    def _clear_counts(self) -> None:
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()

    @contextmanager
    def counted(self, token: str) -> Iterator[None]:
        """Counts a call while it is being answered: of all, and of its token."""
        for name in ("all", token):
            self.at_once[name] += 1
            self.most_at_once[name] = max(self.most_at_once[name], self.at_once[name])
        try:
            yield
        finally:
            for name in ("all", token):
                self.at_once[name] -= 1

    def wrong(self, given: dict[str, Any]) -> str:
        """What is wrong with these settings, "" if nothing."""
        for name, value in given.items():
            if name not in NAMES:
                return f"there is no switch {name!r}"
            if name == "deny":
                if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                    return "deny must be a list of provider.stream"
                continue
            kinds = (int, float) if name.endswith("_ms") else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= 1_000_000:
                return f"{name} must be a {'number' if float in kinds else 'whole number'} from 0 to 1000000"
        return ""

    def set(self, given: dict[str, Any]) -> None:
        """Takes settings that `wrong` found nothing wrong with."""
        for name, value in given.items():
            if name == "deny":
                value = tuple(value)
            setattr(self.faults, name, float(value) if name.endswith("_ms") else value)
        if "daily_quota" in given:
            self.quota_from = self.calls

    def reset(self) -> None:
        self.faults = Faults()
        self.calls = self.quota_from = 0
        self.most_at_once.clear()
        self.statuses.clear()

    def next_fault(self) -> str:
        """What happens to the next API call: "", or the name of a fault."""
        self.calls += 1
        faults = self.faults
        if faults.daily_quota and self.calls - self.quota_from > faults.daily_quota:
            return "daily_quota"
        for name in ("rate_limit", "error", "drop", "html", "truncate"):
            every = getattr(faults, f"{name}_every")
            if every and self.calls % every == 0:
                return name
        return ""

    def state(self) -> dict[str, Any]:
        # Tokens are the sandbox's own; who asks comes from this machine.
        counts = {
            "statuses": dict(self.statuses),
            "at_once": self.at_once["all"],
            "most_at_once": dict(self.most_at_once),
        }
        return {**asdict(self.faults), "calls": self.calls, **counts}
