"""Static imports between the project's own modules, read with `ast` and without importing anything."""

import ast
from collections.abc import Collection
from functools import cache
from pathlib import Path

PACKAGES = ("prolific_core", "tasks", "flows")


def module_file(module: str, root: Path) -> Path | None:
    """Return the file of a dotted module name, or None when the project has no such module."""
    path = root / module.replace(".", "/")
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found[0] if found else None


def named_imports(tree: ast.AST, package: str, root: Path) -> frozenset[str]:
    """Return the project's modules that code of a package names in an import statement, at any depth."""
    found = set()
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


@cache
def direct_imports(module: str, root: Path) -> frozenset[str]:
    """Return the project's modules that a module names in an import statement, at any depth of its code."""
    file = module_file(module, root)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return named_imports(ast.parse(file.read_text(encoding="utf-8")), package, root)


def function_imports(module: str, function: str, root: Path) -> frozenset[str]:
    """Return what a module imports outside of its functions and in one of them."""
    tree = ast.parse(module_file(module, root).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name == function]
    return named_imports(tree, module.rpartition(".")[0], root)


def imported_modules(module: str, root: Path, without: Collection[str] = ()) -> set[str]:
    """Return a module and everything of the project that it imports, directly or not, except through some modules."""
    found, waiting = set(), [module]
    while waiting:
        if (name := waiting.pop()) not in found and name not in without:
            found.add(name)
            waiting += direct_imports(name, root)
    return found


def modules(root: Path) -> list[str]:
    """Return the dotted names of all modules of the project."""
    files = (file.relative_to(root) for package in PACKAGES for file in sorted((root / package).rglob("*.py")))
    return [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
