"""The exported file looked at again: what is measured is what the user gets."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prolific_core.errors import InputError
from prolific_core.mesh.export import BakedMesh, to_z_up
from prolific_core.render.antialias import Edges
from prolific_core.render.raster import Visibility, interpolate
from prolific_core.render.result import Render
from prolific_core.render.shading import render_mesh

_COMPONENTS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}


def load_glb(path: str | Path) -> BakedMesh:
    """A GLB with one textured triangle mesh, as `export.write_glb` makes it, z up again.

    The texture is uint8 (T, T, 3). Raises InputError, naming the file, for
    anything else.
    """
    path = Path(path)
    try:
        document, body = _chunks(path.read_bytes())
        primitive = document["meshes"][0]["primitives"][0]
        attributes = primitive["attributes"]
        points = _accessor(document, body, attributes["POSITION"])
        uvs = _accessor(document, body, attributes["TEXCOORD_0"])
        faces = _accessor(document, body, primitive["indices"]).reshape(-1, 3).astype(np.int64)
        normals = _accessor(document, body, attributes["NORMAL"]) if "NORMAL" in attributes else None
        material = document["materials"][primitive["material"]]
        texture = document["textures"][material["pbrMetallicRoughness"]["baseColorTexture"]["index"]]
        view = document["bufferViews"][document["images"][texture["source"]]["bufferView"]]
        from PIL import Image

        with Image.open(io.BytesIO(_view(body, view))) as picture:
            pixels = np.array(picture.convert("RGB"))
    except (OSError, KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"{path} is not a GLB with one textured mesh ({error})") from None
    return BakedMesh(
        to_z_up(points),
        faces,
        np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1),
        pixels,
        None if normals is None else to_z_up(normals),
    )


def _chunks(data: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack_from("<III", data)
    if magic != 0x46546C67 or version != 2:
        raise ValueError("no glTF 2.0 header")
    if length != len(data):
        raise ValueError(f"{len(data)} bytes of {length}")
    size, kind = struct.unpack_from("<II", data, 12)
    if kind != 0x4E4F534A:
        raise ValueError("the first chunk is not JSON")
    document = json.loads(data[20 : 20 + size])
    body_size, kind = struct.unpack_from("<II", data, 20 + size)
    if kind != 0x004E4942:
        raise ValueError("the second chunk is not binary")
    return document, data[28 + size : 28 + size + body_size]


def _view(body: bytes, view: dict) -> bytes:
    start = view.get("byteOffset", 0)
    if "byteStride" in view:
        raise ValueError("interleaved buffers are not supported")
    return body[start : start + view["byteLength"]]


def _accessor(document: dict, body: bytes, index: int) -> np.ndarray:
    accessor = document["accessors"][index]
    data = _view(body, document["bufferViews"][accessor["bufferView"]])
    width = _WIDTHS[accessor["type"]]
    values = np.frombuffer(
        data, _COMPONENTS[accessor["componentType"]], accessor["count"] * width, accessor.get("byteOffset", 0)
    )
    return values.reshape(-1, width).copy()


class TexturedView:
    """A baked mesh ready to be rendered with its texture.

    mesh: e.g. `load_glb(path)`. Nothing here is trained; use it without gradients.
    """

    def __init__(self, mesh: BakedMesh, *, device="cpu", backend: str = "auto"):
        texture = torch.as_tensor(np.asarray(mesh.texture))
        texture = texture.float() / 255 if texture.dtype == torch.uint8 else texture.float()
        self.texture = texture.permute(2, 0, 1).contiguous().to(device)
        self.vertices = torch.as_tensor(mesh.vertices).float().to(device)
        self.faces = torch.as_tensor(mesh.faces).long().to(device)
        self.uvs = torch.as_tensor(mesh.uvs).float().to(device)
        self.visibility = Visibility(self.vertices, self.faces, backend)
        # Normals and silhouettes belong to the surface, not to the cut: weld the
        # copies that seams made.
        self.welded_vertices, weld = torch.unique(self.vertices, dim=0, return_inverse=True)
        self.welded_faces = weld[self.faces]
        self.edges = Edges.of(self.welded_faces)

    @classmethod
    def load(cls, path: str | Path, **options) -> "TexturedView":
        return cls(load_glb(path), **options)

    def colour(self, uvs: Tensor) -> Tensor:
        """Bilinear lookup: uvs (N, 2), v up, to (N, 3)."""
        place = torch.stack([uvs[:, 0] * 2 - 1, 1 - uvs[:, 1] * 2], dim=-1)
        found = torch.nn.functional.grid_sample(
            self.texture[None], place[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T

    @torch.no_grad()
    def render(self, cameras, resolution: int, background=1.0, *, supersampling: int = 2) -> Render:
        """Pictures (B, 3, resolution, resolution) over `background`; see `shading.render_mesh`."""
        return render_mesh(
            self.visibility,
            self.welded_vertices,
            self.welded_faces,
            cameras,
            resolution,
            lambda hits, points: self.colour(interpolate(self.uvs, self.faces, hits.face, hits.barycentrics)),
            background=background,
            edges=self.edges,
            supersampling=supersampling,
        )
