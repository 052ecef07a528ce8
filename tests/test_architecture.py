"""Imports between packages: their direction, and the absence of circles."""

from pathlib import Path

import pytest

from tasks.runtime.imports import direct_imports
from tests.support.imports import modules

ROOT = Path(__file__).parents[1]
# For each package of the core, the other packages that it may import. Single files of the core (cameras, files, ...)
# are open to all; the experiments may import everything in the core.
CORE = {
    "optimise": {"guidance", "scenes"},
    "guidance": {"prior", "render"},
    "prior": set(),
    "scenes": {"render", "mesh"},
    "render": set(),
    "mesh": {"render"},
    "metrics": {"prior"},
    "toybox": {"prior", "metrics", "mesh", "render"},
}


def unit(module: str) -> str:
    """Return the package below the top level, or the file there, that a module belongs to."""
    return ".".join(module.split(".")[:2])


def imports() -> dict[str, set[str]]:
    return {module: set(direct_imports(module, ROOT)) for module in modules(ROOT)}


def imports_of_units() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, imported in imports().items():
        found.setdefault(unit(module), set()).update({unit(name) for name in imported} - {unit(module)})
    return found


def circles(graph: dict[str, set[str]]) -> set[str]:
    """Return the nodes on circles, by repeated removal of those that import nothing or are not imported."""
    left = {node: {other for other in imported if other in graph} for node, imported in graph.items()}
    while True:
        imported = set().union(*left.values())
        ends = {node for node, others in left.items() if not others or node not in imported}
        if not ends:
            return set(left)
        left = {node: others - ends for node, others in left.items() if node not in ends}


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, set()),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}, {"b", "c"}),
    ],
)
def test_circles_are_found(graph, expected):
    assert circles(graph) == expected


def test_no_files_import_each_other_in_a_circle():
    assert not circles(imports())


def test_no_packages_import_each_other_in_a_circle():
    assert not circles(imports_of_units())


def test_flows_import_tasks_and_tasks_import_the_core():
    order = ("prolific_core", "tasks", "flows")
    for module, imported in imports().items():
        allowed = order[: order.index(module.split(".")[0]) + 1]
        assert {name.split(".")[0] for name in imported} <= set(allowed), module


@pytest.mark.parametrize("package", CORE)
def test_packages_of_the_core_import_in_one_direction(package):
    imported = {name.removeprefix("prolific_core.") for name in imports_of_units()[f"prolific_core.{package}"]}
    assert imported & (set(CORE) | {"experiments"}) <= CORE[package]
