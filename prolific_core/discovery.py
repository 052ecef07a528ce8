"""Guidance methods and score compositions that are available, with their options.

The files are read without importing them, so that the configuration and the command line can list the names without
loading torch. A method or composition is imported only if a configuration sets options of it.
"""

import ast
import importlib
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

_GUIDANCE = Path(__file__).parent / "guidance"

# CPython 3.11 counts the depth of nested nodes once for all threads: if two of them parse at the same time, it raises a
# SystemError (https://github.com/python/cpython/issues/106905). Garbage collection may parse within a parse.
_parsing = threading.RLock()


def parse_module(path: Path) -> ast.Module:
    """Parse a Python file, in one thread at a time.

    Args:
        path: The file.

    Returns:
        Its syntax tree.

    Raises:
        SyntaxError: The file is not valid Python.
    """
    text = path.read_text(encoding="utf-8")
    with _parsing:
        return ast.parse(text)


def guidance_methods() -> list[str]:
    """Return the names of the modules in `guidance/` that define a subclass of `Guidance`, directly or not.

    Returns:
        The module names in alphabetical order, for example `["csd", "sds", "vsd"]`.
    """
    trees = _trees(_GUIDANCE)
    found: dict[str, str] = {}  # classes of methods and their modules
    while new := {
        node.name: name
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name not in found and _names(node.bases) & {"Guidance", *found}
    }:
        found |= new
    return sorted(set(found.values()))


def score_compositions() -> list[str]:
    """Return the names of the modules in `guidance/combine/`.

    Returns:
        The module names in alphabetical order, for example `["cfg", "perp_neg", "rescale"]`.
    """
    return sorted(_trees(_GUIDANCE / "combine"))


def own_scale(method: str) -> float | None:
    """Return the guidance scale that a method needs, which its module declares as the constant `SCALE`.

    Args:
        method: Name of the method.

    Returns:
        The scale, or None if the method works with the scale of any preset.
    """
    for node in _trees(_GUIDANCE)[method].body:
        if isinstance(node, ast.Assign) and "SCALE" in _names(node.targets):
            return float(ast.literal_eval(node.value))
    return None


def options(name: str) -> "type[BaseModel] | None":
    """Return the class `Options` of a method or composition, or None if its module does not define one.

    Args:
        name: Name of the method or composition.

    Returns:
        The class, whose fields are the options with their defaults and bounds.
    """
    for package, folder in (("guidance", _GUIDANCE), ("guidance.combine", _GUIDANCE / "combine")):
        tree = _trees(folder).get(name)
        if tree and any(isinstance(node, ast.ClassDef) and node.name == "Options" for node in tree.body):
            return importlib.import_module(f"prolific_core.{package}.{name}").Options
    return None


def _trees(folder: Path) -> dict[str, ast.Module]:
    """Return the parsed modules in a folder by name, without those whose names begin with an underscore."""
    return {path.stem: _parse(path, path.stat().st_mtime_ns) for path in folder.glob("[!_]*.py")}


@cache
def _parse(path: Path, _modified: int) -> ast.Module:
    try:
        return parse_module(path)
    except SyntaxError:
        return ast.Module([], [])  # importing the module will report the error


def _names(nodes: Iterable[ast.expr]) -> set[str]:
    """Return the names among expressions, such as the bases of a class."""
    return {node.id for node in nodes if isinstance(node, ast.Name)}
