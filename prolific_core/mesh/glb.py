"""Encoding and decoding of binary glTF 2.0 with one textured triangle mesh.

World axes have z up and the front at +x, while glTF has y up and the front at +z, so (x, y, z) becomes (y, z, x). The
material is a metallic-roughness one. A texture of colours makes it rough and not metallic, and if it already contains
the shading, the material also has `KHR_materials_unlit`, which viewers that do not support this extension ignore. A
texture of materials has five channels, of which roughness and metalness become a second image. The same mesh always
gives the same bytes.
"""

import io
import json
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from prolific_core.errors import InputError
from prolific_core.mesh.unwrap import UnwrappedMesh

_COMPONENTS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}


def to_y_up(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
    """Convert points (N, 3) from world axes (z up, front at +x) to glTF axes (y up, front at +z).

    The conversion is a rotation, so it preserves the orientation of faces.
    """
    return points[:, [1, 2, 0]]


def to_z_up(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
    """Convert points (N, 3) from glTF axes (y up, front at +z) to world axes (z up, front at +x)."""
    return points[:, [2, 0, 1]]


def png_bytes(texture: Shaped[np.ndarray, "size size *channels"]) -> bytes:
    """Encode a texture (T, T, 3), or a single channel (T, T), float in [0, 1] or uint8, as PNG."""
    from PIL import Image

    if texture.dtype != np.uint8:
        texture = (np.clip(texture, 0, 1) * 255 + 0.5).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(texture).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def packed(texture: Shaped[np.ndarray, "size size 5"]) -> Shaped[np.ndarray, "size size 3"]:
    """Return roughness as green and metalness as blue, as in metallic-roughness textures, with a red of 1."""
    one = np.full_like(texture[..., :1], 255 if texture.dtype == np.uint8 else 1)
    return np.concatenate([one, texture[..., 3:]], -1)


def glb_bytes(
    mesh: UnwrappedMesh,
    texture: Shaped[np.ndarray, "size size channels"],
    origin: Float[np.ndarray, " 3"] | None = None,
    unlit: bool = True,
) -> bytes:
    """Encode a mesh and its texture as a GLB file with a JSON chunk and a binary chunk (glTF 2.0, section 4).

    Args:
        mesh: The unwrapped mesh in world axes.
        texture: Texture (T, T, 3) of colours, or (T, T, 5) of base colour, roughness and metalness, float in [0, 1] or
            uint8; row 0 is the top.
        origin: World point that becomes the origin of the file; None keeps the world origin. The file records it in the
            `extras` of its node, so that `read_glb` returns world coordinates.
        unlit: Whether a texture of colours contains the shading. If not, viewers light a rough, non-metallic surface.

    Returns:
        The contents of the file.
    """
    vertices = np.asarray(mesh.vertices, np.float32)
    points = to_y_up(vertices if origin is None else vertices - origin)
    # In glTF, v points down.
    uvs = np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=1)
    blocks = [
        ("POSITION", points.astype("<f4"), "VEC3", 5126, 34962),
        ("TEXCOORD_0", uvs.astype("<f4"), "VEC2", 5126, 34962),
    ]
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
    pictures = [texture[..., :3], *([packed(texture)] if texture.shape[-1] == 5 else [])]
    for image in map(png_bytes, pictures):
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(image)})
        body += image + b"\0" * (-len(image) % 4)

    node = {"mesh": 0, "name": "mesh"}
    if origin is not None:
        node["extras"] = {"origin": np.asarray(origin, np.float64).tolist()}
    names = [block[0] for block in blocks]
    document = {
        "asset": {"version": "2.0", "generator": "prolific"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
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
        "materials": [_material(texture.shape[-1] == 5, unlit)],
        "textures": [{"sampler": 0, "source": index} for index in range(len(pictures))],
        # The sampler filters linearly between texels and mip levels, and clamps at the border.
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": len(accessors) + index, "mimeType": "image/png"} for index in range(len(pictures))],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    if used := list(document["materials"][0].get("extensions", ())):
        document["extensionsUsed"] = used
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(body), 0x004E4942) + body
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def _material(physical: bool, unlit: bool) -> dict:
    """Return the material (glTF 2.0, section 3.9). The factors scale the values of the textures."""
    look: dict = {"baseColorTexture": {"index": 0}}
    if physical:
        look["metallicRoughnessTexture"] = {"index": 1}
    look |= {"metallicFactor": 1.0 if physical else 0.0, "roughnessFactor": 1.0}
    material = {"name": "surface", "pbrMetallicRoughness": look}
    return material | ({"extensions": {"KHR_materials_unlit": {}}} if unlit and not physical else {})


def read_glb(path: str | Path) -> tuple[UnwrappedMesh, UInt8[np.ndarray, "size size channels"]]:
    """Read a GLB file in the layout that `glb_bytes` writes.

    Args:
        path: Path of the GLB file.

    Returns:
        The mesh in world axes (z up) and its texture, uint8: (T, T, 3), or (T, T, 5) if it has a metallic-roughness
        texture; see `glb_bytes`.

    Raises:
        InputError: If the file does not exist or is not a GLB file with one textured mesh.
    """
    path = Path(path)
    try:
        document, body = _chunks(path.read_bytes())
        primitive = document["meshes"][0]["primitives"][0]
        attributes = primitive["attributes"]
        points = _accessor(document, body, attributes["POSITION"])
        uvs = _accessor(document, body, attributes["TEXCOORD_0"])
        faces = _accessor(document, body, primitive["indices"]).reshape(-1, 3).astype(np.int64)
        if faces.min() < 0 or faces.max() >= len(points):
            raise ValueError("a face refers to a vertex that does not exist")
        normals = _accessor(document, body, attributes["NORMAL"]) if "NORMAL" in attributes else None
        if any(values is not None and len(values) != len(points) for values in (uvs, normals)):
            raise ValueError("each vertex must have texture coordinates, and a normal if there are normals")
        origin = np.array(document.get("nodes", [{}])[0].get("extras", {}).get("origin", (0, 0, 0)), np.float32)
        if origin.shape != (3,):
            raise ValueError("the origin in the extras of the node must have three numbers")
        look = document["materials"][primitive["material"]]["pbrMetallicRoughness"]
        pixels = _picture(document, body, look["baseColorTexture"])
        if "metallicRoughnessTexture" in look:
            other = _picture(document, body, look["metallicRoughnessTexture"])
            pixels = np.concatenate([pixels, other[..., 1:]], -1)
    except (OSError, AttributeError, KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"cannot read {path} as a GLB file with one textured mesh: {error}") from None
    uvs = np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1)
    return UnwrappedMesh(to_z_up(points) + origin, faces, uvs, None if normals is None else to_z_up(normals)), pixels


def _chunks(data: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack_from("<III", data)
    if magic != 0x46546C67 or version != 2:
        raise ValueError("the file does not start with a glTF 2.0 header")
    if length != len(data):
        raise ValueError(f"the length must be {length} bytes as in the header, got {len(data)}")
    size, kind = struct.unpack_from("<II", data, 12)
    if kind != 0x4E4F534A:
        raise ValueError("the first chunk must be JSON")
    document = json.loads(data[20 : 20 + size])
    body_size, kind = struct.unpack_from("<II", data, 20 + size)
    if kind != 0x004E4942:
        raise ValueError("the second chunk must be binary")
    return document, data[28 + size : 28 + size + body_size]


def _view(body: bytes, view: dict) -> bytes:
    start = view.get("byteOffset", 0)
    if "byteStride" in view:
        raise ValueError("interleaved buffers are not supported")
    return body[start : start + view["byteLength"]]


def _picture(document: dict, body: bytes, texture: dict) -> UInt8[np.ndarray, "size size 3"]:
    from PIL import Image

    view = document["bufferViews"][document["images"][document["textures"][texture["index"]]["source"]]["bufferView"]]
    with Image.open(io.BytesIO(_view(body, view))) as image:
        return np.array(image.convert("RGB"))


def _accessor(document: dict, body: bytes, index: int) -> np.ndarray:
    accessor = document["accessors"][index]
    data = _view(body, document["bufferViews"][accessor["bufferView"]])
    width = _WIDTHS[accessor["type"]]
    values = np.frombuffer(
        data, _COMPONENTS[accessor["componentType"]], accessor["count"] * width, accessor.get("byteOffset", 0)
    )
    return values.reshape(-1, width).copy()
