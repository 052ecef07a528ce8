"""Export of meshes as OBJ (with material and PNG), GLB and PLY, and loading of GLB files.

All formats have the same axes, y up and the front at +z, and therefore the same vertices. Each file is written under a
temporary name and then renamed, so it is either complete or absent. The same mesh always gives the same bytes.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from prolific_core.files import write_atomically
from prolific_core.mesh.glb import glb_bytes, png_bytes, read_glb, to_y_up
from prolific_core.mesh.textured_view import TexturedView
from prolific_core.mesh.unwrap import UnwrappedMesh
from prolific_core.render.mesh.lights import Lighting
from prolific_core.render.mesh.raster import vertex_normals


def feet(vertices: Float[np.ndarray, "vertices 3"]) -> Float[np.ndarray, " 3"]:
    """Return the centre (3,) of the bottom of a bounding box, for vertices (V, 3) in world axes (z up)."""
    low, high = vertices.min(0), vertices.max(0)
    return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)


def write_obj(
    path: str | Path,
    mesh: UnwrappedMesh,
    texture: Shaped[np.ndarray, "size size channels"],
    origin: Float[np.ndarray, " 3"] | None = None,
) -> list[Path]:
    """Write an OBJ file with y up, together with its material (.mtl) and texture (.png).

    The OBJ file is written last, so the other files exist if the OBJ file exists. Roughness and metalness are written
    as grey images named by `map_Pr` and `map_Pm`, the usual extension of the format for physically based rendering.

    Args:
        path: Path of the OBJ file; the other files are written to the same folder with the same stem.
        mesh: The unwrapped mesh in world axes (z up).
        texture: Texture (T, T, 3) or (T, T, 5), float in [0, 1] or uint8; row 0 is the top. See `glb.glb_bytes`.
        origin: World point that becomes the origin of the file; None keeps the world origin.

    Returns:
        The paths of the OBJ, material and texture files.
    """
    path = Path(path)
    material, image = path.with_suffix(".mtl"), path.with_suffix(".png")
    write_atomically(image, png_bytes(texture[..., :3]))
    # Blender's importer warns about map_Ka and about illumination model 0. Model 1 is diffuse without highlights.
    lines = ["newmtl surface", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {image.name}"]
    images = [image]
    if texture.shape[-1] == 5:
        for channel, (key, word) in enumerate((("map_Pr", "roughness"), ("map_Pm", "metallic")), start=3):
            images.append(path.with_name(f"{path.stem}_{word}.png"))
            write_atomically(images[-1], png_bytes(texture[..., channel]))
            lines.append(f"{key} {images[-1].name}")
    write_atomically(material, ("\n".join(lines) + "\n").encode())
    out = [f"mtllib {material.name}", "o mesh"]
    # Nine significant digits represent a float32 exactly.
    vertices = mesh.vertices if origin is None else mesh.vertices - origin
    out += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in to_y_up(vertices).tolist()]
    out += [f"vt {u:.9g} {v:.9g}" for u, v in mesh.uvs.tolist()]
    if mesh.normals is not None:
        out += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in to_y_up(mesh.normals).tolist()]
    repeat = 3 if mesh.normals is not None else 2
    out.append("usemtl surface")
    for face in (np.asarray(mesh.faces) + 1).tolist():
        out.append("f " + " ".join("/".join([str(i)] * repeat) for i in face))
    write_atomically(path, ("\n".join(out) + "\n").encode())
    return [path, material, *images]


def write_glb(
    path: str | Path,
    mesh: UnwrappedMesh,
    texture: Shaped[np.ndarray, "size size channels"],
    origin: Float[np.ndarray, " 3"] | None = None,
    unlit: bool = True,
) -> Path:
    """Write a binary glTF file with y up and an embedded texture.

    Args:
        path: Path of the GLB file.
        mesh: The unwrapped mesh in world axes (z up).
        texture: Texture (T, T, 3) or (T, T, 5), float in [0, 1] or uint8; row 0 is the top. See `glb.glb_bytes`.
        origin: World point that becomes the origin of the file; None keeps the world origin.
        unlit: Whether a texture of colours contains the shading; see `glb.glb_bytes`.

    Returns:
        The path of the file.
    """
    path = Path(path)
    write_atomically(path, glb_bytes(mesh, texture, origin, unlit))
    return path


def write_ply(
    path: str | Path,
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    colours: Float[np.ndarray, "vertices 3"],
    origin: Float[np.ndarray, " 3"] | None = None,
) -> Path:
    """Write a binary PLY file with y up, normals and colours of the vertices.

    Unlike the mesh of the other formats, it has no seams, so that it is watertight if the surface is.

    Args:
        path: Path of the PLY file.
        vertices: Vertex positions (V, 3) in world axes (z up).
        faces: Vertex indices (F, 3).
        colours: Colours (V, 3) in [0, 1].
        origin: World point that becomes the origin of the file; None keeps the world origin.

    Returns:
        The path of the file.
    """
    path = Path(path)
    normals = vertex_normals(torch.as_tensor(vertices).float(), torch.as_tensor(faces).long()).numpy()
    position = np.dtype([(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")])
    row = np.dtype(position.descr + [(name, "u1") for name in ("red", "green", "blue")])
    table = np.empty(len(vertices), row)
    placed = to_y_up(vertices if origin is None else vertices - origin)
    values = np.concatenate([placed, to_y_up(normals)], 1)
    for index, name in enumerate(position.names or ()):
        table[name] = values[:, index]
    for index, name in enumerate(("red", "green", "blue")):
        table[name] = (np.clip(colours[:, index], 0, 1) * 255 + 0.5).astype(np.uint8)
    corners = np.empty(len(faces), np.dtype([("count", "u1"), ("corners", "<i4", 3)]))
    corners["count"], corners["corners"] = 3, faces
    header = ["ply", "format binary_little_endian 1.0", "comment prolific", f"element vertex {len(vertices)}"]
    header += [f"property float {name}" for name in position.names or ()]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    write_atomically(path, ("\n".join(header) + "\n").encode() + table.tobytes() + corners.tobytes())
    return path


def load_glb(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    lighting: Lighting | None = None,
) -> TexturedView:
    """Load a file written by `write_glb` as a renderable scene.

    Args:
        path: Path of the GLB file.
        device: Device on which the scene is rendered.
        backend: Visibility backend; see `render.mesh.raster.Visibility`.
        lighting: Light of a file with materials; see `TexturedView`.

    Returns:
        The textured mesh in world axes (z up), with the world origin even if the file has another one.

    Raises:
        InputError: If the file does not exist or is not a GLB file with one textured mesh.
    """
    return TexturedView(*read_glb(path), device=device, backend=backend, lighting=lighting)
