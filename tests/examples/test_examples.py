"""Every example runs, is short and uses public names."""

import ast
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import prolific_core
from prolific_core.mesh.export import write_glb
from prolific_core.mesh.extract import marching_tetrahedra
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.mesh.unwrap import unwrap
from tests.conftest import ROOT

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
ARGUMENTS = {
    "sample_prior": ["--steps", "2", "--count", "2"],
    "render_glb": ["--views", "2", "--side", "32"],
}


@pytest.fixture
def glb(tmp_path):
    """A red ball."""
    points = grid_points(8, 0.6)
    vertices, faces = marching_tetrahedra(points, 0.4 - points.norm(dim=-1), 8)
    mesh = unwrap(vertices.numpy(), faces.numpy(), 64)
    return write_glb(tmp_path / "ball.glb", mesh, np.full((64, 64, 3), (1.0, 0.0, 0.0)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_writes_its_image(name, tmp_path, glb, monkeypatch):
    out = tmp_path / "out.png"
    arguments = [*([str(glb)] if name == "render_glb" else []), *ARGUMENTS.get(name, ["--steps", "3"])]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, "--out", str(out)])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    pixels = np.asarray(Image.open(out))
    assert pixels.ndim == 3 and pixels.std() > 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_needs_public_names_only(name):
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert len(text.splitlines()) < 40
    public = {*prolific_core.__all__, "config"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "prolific_core":
            assert {alias.name for alias in node.names} <= public


def test_the_public_names_are_those_of_the_modules():
    names = {}
    for node in ast.walk(ast.parse((ROOT / "prolific_core/__init__.pyi").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prolific_core."):
            names |= {alias.name: node.module for alias in node.names}
    assert names == prolific_core._MODULE_OF
    for name in prolific_core.__all__:
        assert getattr(prolific_core, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        prolific_core.magic  # noqa: B018


def test_the_package_is_imported_without_torch():
    code = "import sys, prolific_core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
