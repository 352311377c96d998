"""Made-up companies, people and the dates of what they did. Everything follows from a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

DAYS = 400  # that the data reaches back

FIRST = [
    "Ana",
    "Ben",
    "Chiara",
    "Dmitri",
    "Elif",
    "Femi",
    "Grace",
    "Hiro",
    "Inês",
    "João",
    "Kai",
    "Léa",
    "Mei",
    "Noah",
    "Olga",
    "Pablo",
    "Quinn",
    "Rosa",
    "Søren",
    "Tariq",
    "Uma",
    "Viktor",
    "Wanjiru",
    "Ximena",
    "Yusuf",
    "Zoë",
]
LAST = [
    "Abara",
    "Becker",
    "Castillo",
    "Dahl",
    "Eriksen",
    "Fontaine",
    "Gupta",
    "Haddad",
    "Ivanova",
    "Jansen",
    "Kowalski",
    "Larsen",
    "Moreau",
    "Novak",
    "Okafor",
    "Petrov",
    "Quiroga",
    "Rossi",
    "Schmidt",
    "Tanaka",
    "Usman",
    "Vega",
    "Weber",
    "Xu",
    "Yılmaz",
    "Zhang",
]
PLAIN = str.maketrans("êãéøëıÊÃ", "eaeoeiEA")
COMPANIES = (
    ("Northwind Traders", "northwind.test"),
    ("Contoso", "contoso.test"),
    ("Fabrikam", "fabrikam.test"),
    ("Tailspin Toys", "tailspin.test"),
    ("Adventure Works", "adventure-works.test"),
    ("Litware", "litware.test"),
)
COMPANY_WORDS = [
    "Alpine",
    "Amber",
    "Atlas",
    "Beacon",
    "Cedar",
    "Cobalt",
    "Coral",
    "Delta",
    "Ember",
    "Falcon",
    "Granite",
    "Harbor",
    "Iris",
    "Juniper",
    "Kestrel",
    "Lumen",
    "Maple",
    "Nimbus",
    "Orchid",
    "Pioneer",
    "Quartz",
    "River",
    "Summit",
    "Tidal",
    "Umber",
    "Vertex",
    "Willow",
    "Zephyr",
]
COMPANY_ENDS = [
    "Logistics",
    "Foods",
    "Energy",
    "Labs",
    "Health",
    "Media",
    "Systems",
    "Partners",
    "Robotics",
    "Retail",
    "Textiles",
    "Software",
]


@dataclass(frozen=True)
class Person:
    index: int
    name: str
    login: str
    email: str


@dataclass(frozen=True)
class World:
    """seed, about how many records an account holds, and the moment that is the present."""

    seed: int
    records: int
    now: datetime

    def rng(self, *about: object) -> Random:
        """Random numbers that belong to `about` and to nothing else."""
        return Random(":".join(map(str, (self.seed, *about))))  # noqa: S311 - made-up data

    def chance(self, *about: object) -> float:
        """A number in [0, 1) that belongs to `about`; cheaper than `rng`."""
        digest = hashlib.blake2b(":".join(map(str, (self.seed, *about))).encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big") / 2**48

    def people(self) -> list[Person]:
        """Who works at the connected company and its customers: the same in every provider."""
        return _people(self.seed)

    def times(self, count: int, *about: object) -> list[int]:
        """`count` ascending Unix times up to now, most of them in working hours."""
        rng = self.rng("times", *about)
        end = int(self.now.timestamp())
        midnight = end - end % 86_400
        found = []
        for _ in range(count):
            day = midnight - int(rng.random() * DAYS) * 86_400
            weekday = (day // 86_400 + 3) % 7
            if weekday > 4 and rng.random() < 0.8:
                day -= (weekday - 4) * 86_400
            second = int(8 * 3600 + rng.random() * 10 * 3600) if rng.random() < 0.9 else int(rng.random() * 86_400)
            found.append(min(day + second, end - 1 - int(rng.random() * 3600)))
        found.sort()
        return found


_cast: dict[int, list[Person]] = {}


def _people(seed: int) -> list[Person]:
    if seed not in _cast:
        rng = Random(f"{seed}:people")  # noqa: S311
        people: list[Person] = []
        names: set[str] = set()
        while len(people) < 40:
            name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
            if name in names:
                continue
            names.add(name)
            plain = name.translate(PLAIN).lower().replace(" ", ".")
            # A third work here, the rest at customers.
            domain = COMPANIES[0][1] if len(people) < 14 else rng.choice(COMPANIES[1:])[1]
            people.append(Person(len(people), name, plain.replace(".", "-"), f"{plain}@{domain}"))
        _cast[seed] = people
    return _cast[seed]


def stamp(seconds: int) -> str:
    """2026-01-31T09:00:00Z"""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(value: str) -> float | None:
    """Unix time of an ISO date-time; None for what is none."""
    for text in (value, value.replace(" ", "+")):  # the + of an offset is a space once a query is decoded
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    return None


def present(now: datetime | None) -> datetime:
    """`now` to the hour, so that two starts within it make the same world."""
    moment = now or datetime.now(UTC)
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
