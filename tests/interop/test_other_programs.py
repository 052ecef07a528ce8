"""The exported files in the programs of others: the Khronos validator and Blender. Run by `make test-interop`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from prolific_core.cameras import orbit
from prolific_core.config import ExportConfig
from prolific_core.mesh.asset import finish
from prolific_core.mesh.export import feet, load_glb, write_glb, write_obj, write_ply

pytestmark = pytest.mark.interop

NODE_MODULES = Path(os.environ.get("NODE_MODULES", ".venv/interop/node_modules")).absolute()
BLENDER_PYTHON = os.environ.get("BLENDER_PYTHON", "")

VALIDATE = """
const fs = require("fs");
require("gltf-validator")
  .validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then((report) => console.log(JSON.stringify(report.issues)));
"""


def colour(points):
    """Return a smooth colour that differs in every direction."""
    return (torch.sin(points * torch.tensor([9.0, 7.0, 8.0])) + 1) / 2


def physical(texture):
    """Return a texture of five channels: base colour, roughness and metalness."""
    return np.concatenate([texture, 0.2 + 0.6 * texture[..., :1], texture[..., 1:2]], -1)


@pytest.fixture(scope="module")
def asset():
    """Make a lopsided object, which looks different from every side."""
    ball = trimesh.creation.icosphere(4, radius=0.4)
    vertices = torch.tensor(ball.vertices * (0.5, 0.8, 1.2) + (0.1, -0.05, 0.02), dtype=torch.float32)
    return finish(vertices, torch.tensor(ball.faces), colour, ExportConfig(faces=2000, texture_size=256))


@pytest.fixture(params=["center", "feet"])
def files(tmp_path, request, asset):
    """Write the OBJ and the GLB file of the object."""
    origin = feet(asset.vertices) if request.param == "feet" else None
    obj = write_obj(tmp_path / "mesh.obj", asset.mesh, asset.texture, origin)[0]
    return obj, write_glb(tmp_path / "mesh.glb", asset.mesh, asset.texture, origin)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.skipif(not (NODE_MODULES / "gltf-validator").is_dir(), reason="npm install gltf-validator was not run")
@pytest.mark.parametrize("look", ["unlit", "lit", "pbr"])
def test_the_khronos_validator_finds_no_errors_and_no_warnings(files, asset, tmp_path, look):
    texture = physical(asset.texture) if look == "pbr" else asset.texture
    path = files[1] if look == "unlit" else write_glb(tmp_path / "lit.glb", asset.mesh, texture, unlit=False)
    done = subprocess.run(
        ["node", "-e", VALIDATE, str(path)],
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


@pytest.mark.skipif(not BLENDER_PYTHON, reason="BLENDER_PYTHON does not name a Python that has bpy")
def test_blender_reads_roughness_and_metalness_from_both_formats(asset, tmp_path):
    script, seen = Path(__file__).with_name("blender_corners.py"), tmp_path / "seen.json"
    obj = write_obj(tmp_path / "mesh.obj", asset.mesh, physical(asset.texture))[0]
    glb = write_glb(tmp_path / "mesh.glb", asset.mesh, physical(asset.texture))
    done = subprocess.run([BLENDER_PYTHON, script, seen, obj, glb], capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    for found in json.loads(seen.read_text()):
        assert {"Base Color", "Metallic", "Roughness"} <= set(found["textured"]), found["textured"]


@pytest.mark.skipif(not BLENDER_PYTHON, reason="BLENDER_PYTHON does not name a Python that has bpy")
@pytest.mark.parametrize("view", [0, 1])
def test_blender_s_render_looks_like_ours(asset, tmp_path, view):
    side, place = 128, {"elevation": 20.0, "distance": 1.6, "fov": 45.0}
    camera = orbit(3, **place)[view]
    glb = write_glb(tmp_path / "mesh.glb", asset.mesh, asset.texture)
    # World axes (x, y, z) are (y, z, x) in the file, of which Blender's importer makes (y, -x, z).
    turned = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ camera.c2w[0]
    wanted = {"pose": turned.tolist(), "fov": float(camera.fov[0]), "side": side}
    (tmp_path / "camera.json").write_text(json.dumps(wanted))
    script = Path(__file__).with_name("blender_render.py")
    command = [BLENDER_PYTHON, script, glb, tmp_path / "seen.png", tmp_path / "camera.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "seen.png").convert("RGBA"))).float() / 255
    theirs = (pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]).permute(2, 0, 1)
    ours = load_glb(glb).render(camera, side).rgb[0]
    error = (theirs - ours).square().mean()
    assert -10 * error.log10() >= 25
    mirrored = (theirs.flip(-1) - ours).square().mean()
    assert -10 * mirrored.log10() < 25, "the object must look different when mirrored"


def test_trimesh_and_pymeshlab_agree_on_faces_watertightness_and_volume(asset, tmp_path):
    import pymeshlab

    path = write_ply(tmp_path / "mesh.ply", asset.vertices, asset.faces, asset.colours)
    one = trimesh.load(path, process=False)
    work = pymeshlab.MeshSet(verbose=False)
    work.load_new_mesh(str(path))
    topology, shape = work.get_topological_measures(), work.get_geometric_measures()
    assert len(one.faces) == topology["faces_number"] == len(asset.faces)
    assert one.is_watertight and topology["boundary_edges"] == 0 and topology["is_mesh_two_manifold"]
    assert one.volume == pytest.approx(shape["mesh_volume"], rel=1e-5)
    assert one.volume == pytest.approx(4 / 3 * np.pi * 0.4**3 * 0.5 * 0.8 * 1.2, rel=0.03)
