"""Meshes as files: OBJ with its material and PNG, and GLB.

The world is z up; so is the OBJ. glTF is y up, so a GLB's points are turned by
-90 degrees around x: (x, y, z) becomes (x, z, -y). Textures hold the shading,
so materials ask for none (`KHR_materials_unlit`, and rough, non-metallic for
viewers that do not know it). Files are written beside their place and renamed,
and the same mesh gives the same bytes.
"""

import io
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prolific_core.mesh.extract import EmptyMesh


@dataclass(frozen=True)
class BakedMesh:
    """A mesh with a texture, world axes (z up).

    vertices (V, 3) float32; faces (F, 3) int64; uvs (V, 2) float32, v up;
    texture (T, T, 3) float32 in [0, 1] or uint8, row 0 the top; normals (V, 3)
    float32 unit, or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray
    normals: np.ndarray | None = None

    def __post_init__(self):
        if len(self.faces) == 0:
            raise EmptyMesh("the mesh to be written has no faces")
        if not np.isfinite(self.vertices).all():
            raise EmptyMesh("the mesh to be written has vertices that are not numbers")


def to_y_up(points: np.ndarray) -> np.ndarray:
    """World (z up) to glTF (y up): a rotation, so faces keep their orientation."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], axis=1)


def to_z_up(points: np.ndarray) -> np.ndarray:
    """glTF (y up) to world (z up)."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)


def write_atomically(path: Path, data: bytes) -> None:
    """The whole file or none: written beside its place, flushed and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def png_bytes(texture: np.ndarray) -> bytes:
    """(T, T, 3) float in [0, 1], or uint8, as PNG."""
    from PIL import Image

    if texture.dtype != np.uint8:
        texture = (np.clip(texture, 0, 1) * 255 + 0.5).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(texture).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def write_obj(path: str | Path, mesh: BakedMesh) -> list[Path]:
    """`path` (.obj) with .mtl and .png of the same stem beside it; returns the three paths.

    The OBJ is renamed last: where it is, its companions are.
    """
    path = Path(path)
    material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
    write_atomically(picture, png_bytes(mesh.texture))
    lines = ["newmtl surface", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "illum 0", f"map_Ka {picture.name}", f"map_Kd {picture.name}"]
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


def write_glb(path: str | Path, mesh: BakedMesh) -> Path:
    """One binary glTF 2.0 file, the texture inside; y up."""
    path = Path(path)
    write_atomically(path, glb_bytes(mesh))
    return path


def glb_bytes(mesh: BakedMesh) -> bytes:
    """The bytes of the GLB: header, JSON chunk, binary chunk (glTF 2.0, section 4)."""
    points = to_y_up(np.asarray(mesh.vertices, np.float32))
    # glTF's v grows downwards.
    uvs = np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=1)
    blocks = [("POSITION", points.astype("<f4"), "VEC3", 5126, 34962), ("TEXCOORD_0", uvs.astype("<f4"), "VEC2", 5126, 34962)]
    if mesh.normals is not None:
        blocks.append(("NORMAL", to_y_up(mesh.normals).astype("<f4"), "VEC3", 5126, 34962))
    blocks.append(("indices", np.asarray(mesh.faces).astype("<u4").reshape(-1), "SCALAR", 5125, 34963))

    body, views, accessors = b"", [], []
    for index, (_, values, kind, component, target) in enumerate(blocks):
        data = np.ascontiguousarray(values).tobytes()
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(data), "target": target})
        accessors.append({"bufferView": index, "componentType": component, "count": len(values), "type": kind})
        body += data + b"\0" * (-len(data) % 4)
    accessors[0] |= {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
    picture = png_bytes(mesh.texture)
    views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(picture)})
    body += picture + b"\0" * (-len(picture) % 4)

    names = [block[0] for block in blocks]
    document = {
        "asset": {"version": "2.0", "generator": "prolific"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "mesh"}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {name: i for i, name in enumerate(names[:-1])},
                        "indices": len(names) - 1,
                        "material": 0,
                        "mode": 4,
                    }
                ]
            }
        ],
        "materials": [
            {
                "name": "surface",
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0.0,
                    "roughnessFactor": 1.0,
                },
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "textures": [{"sampler": 0, "source": 0}],
        # Linear, with mip levels; clamped at the border.
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": len(views) - 1, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(body), 0x004E4942) + body
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
