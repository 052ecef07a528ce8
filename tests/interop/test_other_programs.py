"""The exported files in the programs of others: the Khronos validator and Blender. Run by `make test-interop`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh

from prolific_core.mesh.export import feet, write_glb, write_obj
from prolific_core.mesh.unwrap import unwrap

pytestmark = pytest.mark.interop

NODE_MODULES = Path(os.environ.get("NODE_MODULES", ".venv/interop/node_modules")).absolute()
BLENDER_PYTHON = os.environ.get("BLENDER_PYTHON", "")

VALIDATE = """
const fs = require("fs");
require("gltf-validator")
  .validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then((report) => console.log(JSON.stringify(report.issues)));
"""


@pytest.fixture(params=["center", "feet"])
def files(tmp_path, request):
    """Write a lopsided object, which looks different from every side, and return its OBJ and GLB files."""
    ball = trimesh.creation.icosphere(3, radius=0.4)
    vertices = ball.vertices * (0.5, 0.8, 1.2) + (0.1, -0.05, 0.02)
    mesh = unwrap(vertices, ball.faces, 64)
    texture = np.random.default_rng(0).random((64, 64, 3))
    origin = feet(mesh.vertices) if request.param == "feet" else None
    obj = write_obj(tmp_path / "mesh.obj", mesh, texture, origin)[0]
    return obj, write_glb(tmp_path / "mesh.glb", mesh, texture, origin)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.skipif(not (NODE_MODULES / "gltf-validator").is_dir(), reason="npm install gltf-validator was not run")
def test_the_khronos_validator_finds_no_errors_and_no_warnings(files):
    done = subprocess.run(
        ["node", "-e", VALIDATE, str(files[1])],
        env=os.environ | {"NODE_PATH": str(NODE_MODULES)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    issues = json.loads(done.stdout)
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


@pytest.mark.skipif(not BLENDER_PYTHON, reason="BLENDER_PYTHON does not name a Python that has bpy")
def test_obj_and_glb_coincide_in_blender_and_nothing_is_warned_about(files, tmp_path):
    script, seen = Path(__file__).with_name("blender_corners.py"), tmp_path / "seen.json"
    done = subprocess.run([BLENDER_PYTHON, script, seen, *files], capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "WARNING" not in output and "ERROR" not in output, output
    obj, glb = json.loads(seen.read_text())
    corners = np.array(obj["corners"])
    assert np.allclose(corners, glb["corners"], atol=1e-6)
    assert np.allclose(obj["uvs"], glb["uvs"], atol=1e-6)
    # Blender has z up: the longest axis of the object is upright.
    assert np.ptp(corners, axis=(0, 1)).argmax() == 2
