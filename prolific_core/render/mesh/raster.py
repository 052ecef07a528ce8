"""Triangle meshes on the screen: who is seen, where it was hit, what is there.

Visibility, which face a pixel's ray meets first, is a discrete question: the
backends answer it without gradients. All else is PyTorch on the answer and
differentiable with respect to vertices: the hit is recomputed on the face that
won, and `antialias.py` gives the silhouettes their gradient.

    visibility = Visibility(vertices, faces)                  # V x 3, F x 3
    hits = trace(visibility, vertices, faces, *cameras.rays(64))
    normal = interpolate(vertex_normals(vertices, faces), faces, hits.face, hits.barycentrics)
    image = hits.image(normal, background=0.0)                # (B, 3, H, W)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prolific_core.render import backends
from prolific_core.render import warp_launch as native


class Visibility:
    """A mesh prepared for ray queries; keep it as long as the vertices stay the same.

    vertices: (V, 3) float32; faces: (F, 3) int64, F may be 0.
    backend: "auto", "warp" (BVH, CPU and CUDA), "torch" (brute force, slow),
        "nvdiffrast" (CUDA; pinhole rays only).
    """

    def __init__(self, vertices: Tensor, faces: Tensor, backend: str = "auto"):
        self.backend = backends.choose("raster", backend, vertices.device).name
        # The copies are what the BVH points into, so nobody may change them.
        self.vertices = vertices.detach().float().clone().contiguous()
        self.faces = faces.detach().clone().contiguous()
        self._mesh = None

    def __call__(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Face first met by each ray: (B, H, W) int64, -1 where none.

        origins, directions: (B, H, W, 3); directions unit. A ray that meets an
        edge exactly may get either of its faces.
        """
        if len(self.faces) == 0:
            return torch.full(directions.shape[:-1], -1, device=directions.device)
        origins, directions = origins.detach().float(), directions.detach().float()
        if self.backend == "nvdiffrast":
            return self._nvdiffrast(origins, directions)
        flat = origins.reshape(-1, 3).contiguous(), directions.reshape(-1, 3).contiguous()
        found = self._warp(*flat) if self.backend == "warp" else brute_force(self.vertices, self.faces, *flat)
        return found.view(directions.shape[:-1])

    def _warp(self, origins: Tensor, directions: Tensor) -> Tensor:
        wp = native.warp()
        from prolific_core.render.mesh.kernels import first_hit

        if self._mesh is None:
            self._indices = self.faces.reshape(-1).int()
            self._mesh = wp.Mesh(
                points=wp.from_torch(self.vertices, dtype=wp.vec3), indices=wp.from_torch(self._indices)
            )
        found = torch.empty(len(origins), dtype=torch.int32, device=origins.device)
        native.launch(
            first_hit,
            len(origins),
            [self._mesh.id, _vec3(origins), _vec3(directions), found],
            origins.device,
        )
        return found.long()

    def _nvdiffrast(self, origins: Tensor, directions: Tensor) -> Tensor:
        import nvdiffrast.torch as dr

        if self._mesh is None:
            self._mesh = dr.RasterizeCudaContext(device=self.vertices.device)
        camera = Pinhole.from_rays(origins, directions)
        raster, _ = dr.rasterize(
            self._mesh,
            clip_coordinates(camera.project(self.vertices), camera.height, camera.width),
            self.faces.int(),
            (camera.height, camera.width),
            grad_db=False,
        )
        return raster[..., 3].long() - 1


def _vec3(rows: Tensor):
    """(N, 3) as a warp array of N vectors."""
    wp = native.warp()
    return wp.from_torch(rows, dtype=wp.vec3, requires_grad=False)


def visible_faces(
    vertices: Tensor, faces: Tensor, origins: Tensor, directions: Tensor, backend: str = "auto"
) -> Tensor:
    """Face first met by each ray, (B, H, W) int64, -1 where none; see `Visibility`."""
    return Visibility(vertices, faces, backend)(origins, directions)


def brute_force(vertices: Tensor, faces: Tensor, origins: Tensor, directions: Tensor, chunk: int = 2_000_000) -> Tensor:
    """The reference: every ray against every face. Rays (N, 3); returns (N,) int64."""
    found = []
    rows = max(1, chunk // max(1, len(faces)))
    corners = vertices[faces]
    for o, d in zip(origins.split(rows), directions.split(rows)):
        u, v, t, _ = moller_trumbore(corners[None], o[:, None], d[:, None])
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        t = torch.where(hit, t, torch.inf)
        nearest, face = t.min(dim=1)
        found.append(torch.where(nearest.isfinite(), face, -1))
    return torch.cat(found)


def moller_trumbore(corners: Tensor, origins: Tensor, directions: Tensor):
    """Where rays meet the planes of triangles (Moeller and Trumbore 1997).

    corners (..., 3, 3); origins, directions (..., 3), broadcast together.
    Returns u, v (weights of corners 1 and 2), t (distance along the ray) and
    whether the ray is not parallel to the plane, each (...). Parallel ones get
    the centre and infinity, without gradient.
    """
    a, b, c = corners.unbind(-2)
    ab, ac, ao = b - a, c - a, origins - a
    normal = torch.linalg.cross(ab, ac)
    det = -(directions * normal).sum(-1)
    # |det| is twice the area times the cosine of incidence.
    sound = det.abs() > 1e-6 * normal.norm(dim=-1) + 1e-20
    inverse = 1 / torch.where(sound, det, 1.0)
    turned = torch.linalg.cross(ao, directions)
    u = torch.where(sound, (ac * turned).sum(-1) * inverse, 1 / 3)
    v = torch.where(sound, -(ab * turned).sum(-1) * inverse, 1 / 3)
    t = torch.where(sound, (ao * normal).sum(-1) * inverse, torch.inf)
    return u, v, t, sound


@dataclass(frozen=True)
class Hits:
    """What a picture's rays met: N covered pixels of B x H x W.

    pixel (N,): index into the flattened B x H x W, rising; face (N,) int64;
    barycentrics (N, 3); distance (N,) along the unit ray; face_id (B, H, W),
    -1 where none. barycentrics and distance are differentiable in the vertices.
    """

    face_id: Tensor
    pixel: Tensor
    face: Tensor
    barycentrics: Tensor
    distance: Tensor

    def image(self, values: Tensor, background: float | Tensor = 0.0) -> Tensor:
        """Values (N, C) of the covered pixels as (B, C, H, W) over `background`.

        background: a number, or a tensor that broadcasts to (B, C, H, W).
        """
        b, h, w = self.face_id.shape
        if not torch.is_tensor(background):
            background = torch.tensor(float(background))
        canvas = background.to(values).expand(b, values.shape[1], h, w).permute(0, 2, 3, 1)
        canvas = canvas.reshape(b * h * w, values.shape[1]).index_copy(0, self.pixel, values)
        return canvas.view(b, h, w, values.shape[1]).permute(0, 3, 1, 2)


def trace(visibility: Visibility, vertices: Tensor, faces: Tensor, origins: Tensor, directions: Tensor) -> Hits:
    """Visibility, then the hit on each winning face, differentiable in `vertices`.

    visibility: of the same vertices and faces. Rays (B, H, W, 3).
    """
    face_id = visibility(origins, directions)
    pixel = (face_id.reshape(-1) >= 0).nonzero().squeeze(1)
    face = face_id.reshape(-1)[pixel]
    corners = gather_rows(vertices, faces[face].reshape(-1)).view(-1, 3, 3)
    u, v, t, sound = moller_trumbore(corners, origins.reshape(-1, 3)[pixel], directions.reshape(-1, 3)[pixel])
    # A grazing ray has no sound distance; its face's centre will do.
    centre = (corners.mean(1) - origins.reshape(-1, 3)[pixel]).norm(dim=-1).detach()
    return Hits(face_id, pixel, face, torch.stack([1 - u - v, u, v], -1), torch.where(sound, t, centre))


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for a flat index: its backward is one ordered index_add."""
    return table.index_select(0, index)


def interpolate(attributes: Tensor, faces: Tensor, face: Tensor, barycentrics: Tensor) -> Tensor:
    """Attributes (V, C) of vertices at points on faces.

    face (...) int64, -1 gives zeros; barycentrics (..., 3). Returns (..., C).
    """
    corners = gather_rows(attributes, faces[face.clamp(min=0)].reshape(-1))
    values = (corners.view(*face.shape, 3, attributes.shape[-1]) * barycentrics.unsqueeze(-1)).sum(-2)
    return values * (face >= 0).unsqueeze(-1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Cross products (F, 3): outward for counter-clockwise faces, twice the area long."""
    a, b, c = gather_rows(vertices, faces.reshape(-1)).view(-1, 3, 3).unbind(1)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (V, 3), the area-weighted mean of the faces around a vertex; 0 where there is none."""
    per_face = face_normals(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), per_face.repeat_interleave(3, dim=0))
    # The floor is on the squared length: the gradient of a norm at 0 is not finite.
    return total / (total.square().sum(-1, keepdim=True) + 1e-24).sqrt()


@dataclass(frozen=True)
class Pinhole:
    """The camera behind a picture's rays, recovered from them.

    origin, forward (B, 3), forward unit; right, down (B, 3): dotted with a point
    of the plane at depth 1, the column and row in pixels from the centre.
    """

    origin: Tensor
    forward: Tensor
    right: Tensor
    down: Tensor
    height: int
    width: int

    @classmethod
    def from_rays(cls, origins: Tensor, directions: Tensor) -> "Pinhole":
        """From rays (B, H, W, 3) through the pixel centres of a centred pinhole camera."""
        b, h, w, _ = directions.shape
        if h < 2 or w < 2:
            raise ValueError(f"a picture of {h} x {w} pixels is too small to tell its camera from its rays")
        top_left, top_right = directions[:, 0, 0], directions[:, 0, -1]
        low_left, low_right = directions[:, -1, 0], directions[:, -1, -1]
        forward = torch.nn.functional.normalize(top_left + top_right + low_left + low_right, dim=-1)

        def on_plane(direction):
            return direction / (direction * forward).sum(-1, keepdim=True)

        right = (on_plane(top_right) - on_plane(top_left)) / (w - 1)
        down = (on_plane(low_left) - on_plane(top_left)) / (h - 1)
        return cls(
            origins[:, 0, 0],
            forward,
            right / right.square().sum(-1, keepdim=True),
            down / down.square().sum(-1, keepdim=True),
            h,
            w,
        )

    def project(self, points: Tensor) -> Tensor:
        """World points (V, 3) to (B, V, 3): column, row (pixels; centres at halves) and depth.

        Depth is along the viewing axis; columns and rows mean nothing where it
        is not positive.
        """
        offset = points[None] - self.origin[:, None]
        depth = (offset * self.forward[:, None]).sum(-1)
        scale = torch.where(depth.abs() > 1e-6, depth, 1e-6)
        column = (offset * self.right[:, None]).sum(-1) / scale + self.width / 2
        row = (offset * self.down[:, None]).sum(-1) / scale + self.height / 2
        return torch.stack([column, row, depth], dim=-1)


def clip_coordinates(screen: Tensor, height: int, width: int, near: float = 0.01, far: float = 100.0) -> Tensor:
    """Projected points (B, V, 3) as OpenGL clip coordinates (B, V, 4), upside down.

    nvdiffrast's row 0 is at y = -1, ours is the top: so y grows downwards here.
    """
    column, row, depth = screen.unbind(-1)
    z = depth * (far + near) / (far - near) - 2 * far * near / (far - near)
    return torch.stack([(column / width * 2 - 1) * depth, (row / height * 2 - 1) * depth, z, depth], -1).contiguous()
