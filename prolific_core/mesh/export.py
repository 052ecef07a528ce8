"""A textured mesh as files, OBJ with its material and PNG, and GLB; and the GLB read back.

Files are written beside their place and renamed, so each is whole or absent, and
the same mesh gives the same bytes.
"""

from pathlib import Path

import numpy as np

from prolific_core.files import write_atomically
from prolific_core.mesh.glb import glb_bytes, png_bytes, read_glb
from prolific_core.mesh.textured_view import TexturedView
from prolific_core.mesh.unwrap import UnwrappedMesh


def write_obj(path: str | Path, mesh: UnwrappedMesh, texture: np.ndarray) -> list[Path]:
    """`path` (.obj) with .mtl and .png of the same stem beside it, z up; returns the three paths.

    The OBJ is renamed last: where it is, its companions are.
    """
    path = Path(path)
    material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
    write_atomically(picture, png_bytes(texture))
    lines = [
        "newmtl surface",
        "Ka 1 1 1",
        "Kd 1 1 1",
        "Ks 0 0 0",
        "illum 0",
        f"map_Ka {picture.name}",
        f"map_Kd {picture.name}",
    ]
    write_atomically(material, ("\n".join(lines) + "\n").encode())
    out = [f"mtllib {material.name}", "o mesh"]
    # Nine significant digits hold a float32 exactly.
    out += ["v %.9g %.9g %.9g" % tuple(p) for p in mesh.vertices.tolist()]
    out += ["vt %.9g %.9g" % tuple(p) for p in mesh.uvs.tolist()]
    if mesh.normals is not None:
        out += ["vn %.6g %.6g %.6g" % tuple(p) for p in mesh.normals.tolist()]
    corner = "%d/%d/%d" if mesh.normals is not None else "%d/%d"
    repeat = 3 if mesh.normals is not None else 2
    out.append("usemtl surface")
    for face in (np.asarray(mesh.faces) + 1).tolist():
        out.append("f " + " ".join(corner % ((i,) * repeat) for i in face))
    write_atomically(path, ("\n".join(out) + "\n").encode())
    return [path, material, picture]


def write_glb(path: str | Path, mesh: UnwrappedMesh, texture: np.ndarray) -> Path:
    """One binary glTF file with the texture inside, y up. texture: (T, T, 3) float in [0, 1], or uint8."""
    path = Path(path)
    write_atomically(path, glb_bytes(mesh, texture))
    return path


def load_glb(path: str | Path, *, device="cpu", backend: str = "auto") -> TexturedView:
    """What `write_glb` wrote, z up again, ready to be rendered with its texture.

    Raises InputError, naming the file, if it is not such a GLB.
    """
    return TexturedView(*read_glb(path), device=device, backend=backend)
