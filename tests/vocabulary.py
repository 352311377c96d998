"""The words of the graph: what each stream's records are about and say, as the sandbox's records show it.

`python -m tests.vocabulary` writes them into docs/graph.md, between the marks.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict

import django

from integrations.providers import PROVIDERS
from integrations.providers.base import Graph, Stream
from tests.processes import PROJECT

PAGE = PROJECT / "docs" / "graph.md"
BEGIN, END = "<!-- streams -->\n", "<!-- /streams -->\n"
RECORDS = 240  # of each stand-in: enough for each thing that it knows to say


def _row(stream: Stream, graphs: list[Graph], kinds: dict[str, str]) -> str:
    """A row of the table. kinds: of things by key."""
    about = sorted({graph.entities[0].kind for graph in graphs})
    says: dict[str, set[str]] = defaultdict(set)
    for graph in graphs:
        for kind, end in zip(graph.kinds, graph.ends, strict=True):
            says[kind] |= {kinds[end]} if end in kinds else {"person"} if end.startswith("person:") else set()
    words = []
    for kind, ends in sorted(says.items(), key=lambda item: item[0].removeprefix("^")):
        others = " or ".join(sorted(ends))
        words.append(f"{others} `{kind[1:]}` it" if kind.startswith("^") else f"`{kind}` {others}")
    return f"| {stream.label} (`{stream.name}`) | {', '.join(about)} | {'; '.join(words)} |\n"


async def _of(slug: str) -> str:
    from tests.contract.stage import Stage

    stage = Stage(slug, RECORDS)
    graphs: dict[str, list[Graph]] = defaultdict(list)
    async with stage.client:
        for account in stage.stand_in.accounts:
            await stage.use(account)
            for stream in stage.provider.streams:
                graphs[stream.name] += (await stage.read(stream)).graphs(stage.namespace)
    kinds = {
        key: entity.kind
        for graph in itertools.chain.from_iterable(graphs.values())
        for entity in sorted(graph.entities, key=lambda one: one.properties is not None)
        for key in (*entity.handles, *entity.aliases, entity.key)
    }
    rows = [_row(stream, graphs[stream.name], kinds) for stream in stage.provider.streams]
    return f"\n### {stage.provider.name} (`{slug}`)\n\n| stream | is about | says |\n|---|---|---|\n{''.join(rows)}"


def tables() -> str:
    """What stands between the marks."""
    return "".join([asyncio.run(_of(slug)) for slug in PROVIDERS]) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atom.settings")
    django.setup()
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables() + END + rest.partition(END)[2])
