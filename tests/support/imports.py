"""Static imports of single functions, and the names of all modules, for tests of the code's structure."""

import ast
from pathlib import Path

from tasks.runtime.imports import PACKAGES, module_file, named_imports


def function_imports(module: str, function: str, root: Path) -> frozenset[str]:
    """Return what a module imports outside of its functions and in one of them."""
    tree = ast.parse(module_file(module, root).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name == function]
    return named_imports(tree, module.rpartition(".")[0], root)


def modules(root: Path) -> list[str]:
    """Return the dotted names of all modules of the project."""
    files = (file.relative_to(root) for package in PACKAGES for file in sorted((root / package).rglob("*.py")))
    return [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
