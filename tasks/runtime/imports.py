"""Static imports between the project's own modules, read with `ast` and without importing anything."""

import ast
from collections.abc import Collection
from functools import cache
from pathlib import Path

from prolific_core.discovery import parse_module

PACKAGES = ("prolific_core", "tasks", "flows")


def module_file(module: str, root: Path) -> Path | None:
    """Return the file of a dotted module name, or None if the project has no such module."""
    path = root / module.replace(".", "/")
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found[0] if found else None


def named_imports(tree: ast.AST, package: str, root: Path) -> frozenset[str]:
    """Return the project's modules that code of a package names in an import statement, at any depth."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *([base] if base else [])]
                )
            found |= {name if module_file(name := f"{base}.{alias.name}", root) else base for alias in node.names}
    return frozenset(name for name in found if name.split(".")[0] in PACKAGES and module_file(name, root))


def direct_imports(module: str, root: Path) -> frozenset[str]:
    """Return the project's modules that a module names in an import statement, at any depth of its code."""
    file = module_file(module, root)
    return _direct_imports(module, root, file, file.stat().st_mtime_ns) if file else frozenset()


@cache
def _direct_imports(module: str, root: Path, file: Path, _modified: int) -> frozenset[str]:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = parse_module(file)
    except (SyntaxError, ValueError):
        return frozenset()  # running the module will report the error
    return named_imports(tree, package, root)


def imported_modules(module: str, root: Path, without: Collection[str] = ()) -> set[str]:
    """Return a module and everything of the project that it imports, directly or not, except through some modules."""
    found, waiting = set(), [module]
    while waiting:
        if (name := waiting.pop()) not in found and name not in without:
            found.add(name)
            waiting += direct_imports(name, root)
    return found
