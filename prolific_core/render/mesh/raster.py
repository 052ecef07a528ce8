"""Rasterisation of triangle meshes, with visibility, ray hits and interpolation of vertex attributes.

Visibility, the first face along each pixel's ray, is discrete and has no gradient. All other steps are PyTorch code
that is differentiable with respect to the vertices. The intersection of the ray with the visible face is recomputed,
and `antialias.py` makes silhouettes differentiable.

Example:
    >>> vertices = torch.tensor([[0.0, -0.4, -0.4], [0.0, 0.4, -0.4], [0.0, 0.0, 0.4]], requires_grad=True)
    >>> faces = torch.tensor([[0, 1, 2]])
    >>> from prolific_core import cameras
    >>> rays = cameras.orbit(1, elevation=0, distance=2.0, fov=45).rays(64)
    >>> hits = trace(Visibility(vertices, faces), vertices, faces, *rays)
    >>> normal = interpolate(vertex_normals(vertices, faces), faces, hits.face, hits.barycentrics)
    >>> hits.image(normal, background=0.0).shape
    torch.Size([1, 3, 64, 64])
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.render import backends, warp_launch


class Visibility:
    """Search structure for the first face along a ray. It can be reused while the vertices do not change.

    Example:
        >>> vertices = torch.tensor([[0.0, -1.0, -1.0], [0.0, 1.0, -1.0], [0.0, 0.0, 1.0]])
        >>> visibility = Visibility(vertices, torch.tensor([[0, 1, 2]]))
        >>> visibility(torch.tensor([[[[2.0, 0.0, 0.0]]]]), torch.tensor([[[[-1.0, 0.0, 0.0]]]]))
        tensor([[[0]]])

    Args:
        vertices: Vertex positions (V, 3), which are copied.
        faces: Vertex indices (F, 3), int64; F may be 0.
        backend: "auto", "warp" (bounding volume hierarchy on CPU or CUDA), "torch" (slow test of every face) or
            "nvdiffrast" (CUDA, pinhole cameras only).

    Raises:
        BackendMissing: The requested backend cannot run on the device.
    """

    def __init__(self, vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], backend: str = "auto"):
        self.backend = backends.choose("raster", backend, vertices.device).name
        # The BVH refers to the memory of these copies, so they must not be modified.
        self.vertices = vertices.detach().float().clone().contiguous()
        self.faces = faces.detach().clone().contiguous()
        self._mesh = None

    def __call__(
        self, origins: Float[Tensor, "batch height width 3"], directions: Float[Tensor, "batch height width 3"]
    ) -> Int[Tensor, "batch height width"]:
        """Return the first face along each ray.

        Args:
            origins: Origins (B, H, W, 3) of the rays.
            directions: Unit directions (B, H, W, 3).

        Returns:
            Face indices (B, H, W), int64, and -1 where a ray hits nothing. For a ray that hits an edge exactly, either
            adjacent face may be returned.
        """
        if len(self.faces) == 0:
            return torch.full(directions.shape[:-1], -1, device=directions.device)
        origins, directions = origins.detach().float(), directions.detach().float()
        if self.backend == "nvdiffrast":
            return self._nvdiffrast(origins, directions)
        flat = origins.reshape(-1, 3).contiguous(), directions.reshape(-1, 3).contiguous()
        found = self._warp(*flat) if self.backend == "warp" else first_hit_reference(self.vertices, self.faces, *flat)
        return found.view(directions.shape[:-1])

    def _warp(self, origins: Tensor, directions: Tensor) -> Tensor:
        wp = warp_launch.warp()
        from prolific_core.render.mesh.kernels import first_hit

        if self._mesh is None:
            self._indices = self.faces.reshape(-1).int()
            self._mesh = wp.Mesh(
                points=wp.from_torch(self.vertices, dtype=wp.vec3), indices=wp.from_torch(self._indices)
            )
        found = torch.empty(len(origins), dtype=torch.int32, device=origins.device)
        values = [self._mesh.id, (origins, wp.vec3), (directions, wp.vec3), found]
        warp_launch.launch(first_hit, len(origins), values, origins.device)
        return found.long()

    def _nvdiffrast(self, origins: Tensor, directions: Tensor) -> Tensor:
        import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

        camera = Pinhole.from_rays(origins, directions)
        raster, _ = dr.rasterize(
            _rasterizer(self.vertices.device),
            clip_coordinates(camera.project(self.vertices), camera.height, camera.width),
            self.faces.int(),
            (camera.height, camera.width),
            grad_db=False,
        )
        return raster[..., 3].long() - 1


@cache
def _rasterizer(device: torch.device):
    """Return nvdiffrast's context for a device, whose creation takes longer than a render."""
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    return dr.RasterizeCudaContext(device=device)


def first_hit_reference(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    chunk: int = 2_000_000,
) -> Int[Tensor, " rays"]:
    """Find the first face along each ray by testing every face in plain PyTorch.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3), F > 0.
        origins: Origins (N, 3) of the rays.
        directions: Unit directions (N, 3).
        chunk: Number of pairs of rays and faces that are tested at once.

    Returns:
        Face indices (N,), int64, and -1 where a ray hits nothing.
    """
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


def moller_trumbore(
    corners: Float[Tensor, "*#triangles 3 3"],
    origins: Float[Tensor, "*#triangles 3"],
    directions: Float[Tensor, "*#triangles 3"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intersect rays with the planes of triangles (Moeller and Trumbore 1997).

    Args:
        corners: Corners (..., 3, 3) of the triangles.
        origins: Origins (..., 3) of the rays, which broadcast with the triangles.
        directions: Unit directions (..., 3).

    Returns:
        Four tensors (...): the barycentric weights u and v of corners 1 and 2, the distance t along the ray, and a mask
        of the rays that are not parallel to the plane. For a parallel ray, the weights are those of the triangle's
        centre, the distance is infinite, and the gradient is zero.
    """
    a, b, c = corners.unbind(-2)
    ab, ac, ao = b - a, c - a, origins - a
    normal = torch.linalg.cross(ab, ac)
    det = -(directions * normal).sum(-1)
    # |det| is twice the area times the cosine of the angle of incidence.
    sound = det.abs() > 1e-6 * normal.norm(dim=-1) + 1e-20
    inverse = 1 / torch.where(sound, det, 1.0)
    turned = torch.linalg.cross(ao, directions)
    u = torch.where(sound, (ac * turned).sum(-1) * inverse, 1 / 3)
    v = torch.where(sound, -(ab * turned).sum(-1) * inverse, 1 / 3)
    t = torch.where(sound, (ao * normal).sum(-1) * inverse, torch.inf)
    return u, v, t, sound


@dataclass(frozen=True)
class Hits:
    """Ray hits for B images of H x W pixels, with N covered pixels in total.

    Attributes:
        face_id: Index (B, H, W) of the face at each pixel, and -1 for uncovered pixels.
        pixel: Index (N,) of each covered pixel in the flattened (B, H, W), in ascending order.
        face: Index (N,) of the face at each covered pixel, int64.
        barycentrics: Barycentric weights (N, 3) of the face's corners, differentiable with respect to the vertices.
        distance: Distance (N,) along the unit ray in world units, differentiable with respect to the vertices.
    """

    face_id: Int[Tensor, "batch height width"]
    pixel: Int[Tensor, " covered"]
    face: Int[Tensor, " covered"]
    barycentrics: Float[Tensor, "covered 3"]
    distance: Float[Tensor, " covered"]

    @property
    def image_index(self) -> Int[Tensor, " covered"]:
        """Index (N,) of the image of each covered pixel."""
        _, height, width = self.face_id.shape
        return torch.div(self.pixel, height * width, rounding_mode="floor")

    def image(
        self, values: Float[Tensor, "covered channels"], background: float | Tensor = 0.0
    ) -> Float[Tensor, "batch channels height width"]:
        """Place the values of the covered pixels over a background.

        Args:
            values: Values (N, C) of the covered pixels.
            background: A number, or a tensor that broadcasts to (B, C, H, W).

        Returns:
            Images (B, C, H, W).
        """
        b, h, w = self.face_id.shape
        if not torch.is_tensor(background):
            background = torch.full((), float(background), dtype=values.dtype, device=values.device)
        canvas = background.to(values).expand(b, values.shape[1], h, w).permute(0, 2, 3, 1)
        canvas = canvas.reshape(b * h * w, values.shape[1]).index_copy(0, self.pixel, values)
        return canvas.view(b, h, w, values.shape[1]).permute(0, 3, 1, 2)


def trace(
    visibility: Visibility,
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    origins: Float[Tensor, "batch height width 3"],
    directions: Float[Tensor, "batch height width 3"],
) -> Hits:
    """Intersect each ray with its visible face. The result is differentiable with respect to the vertices.

    Args:
        visibility: Search structure of the same vertices and faces.
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        origins: Origins (B, H, W, 3) of the rays.
        directions: Unit directions (B, H, W, 3).

    Returns:
        The hits of the covered pixels.
    """
    face_id = visibility(origins, directions)
    pixel = (face_id.reshape(-1) >= 0).nonzero().squeeze(1)
    face = face_id.reshape(-1)[pixel]
    corners = gather_rows(vertices, faces[face].reshape(-1)).view(-1, 3, 3)
    u, v, t, sound = moller_trumbore(corners, origins.reshape(-1, 3)[pixel], directions.reshape(-1, 3)[pixel])
    # Use the distance of the face's centre for grazing rays, whose intersection is ill-conditioned.
    centre = (corners.mean(1) - origins.reshape(-1, 3)[pixel]).norm(dim=-1).detach()
    return Hits(face_id, pixel, face, torch.stack([1 - u - v, u, v], -1), torch.where(sound, t, centre))


def gather_rows(table: Float[Tensor, "rows ..."], index: Int[Tensor, " count"]) -> Float[Tensor, "count ..."]:
    """Return `table[index]` for a flat index, with a single `index_add` as the backward pass."""
    return table.index_select(0, index)


def interpolate(
    attributes: Float[Tensor, "vertices channels"],
    faces: Int[Tensor, "faces 3"],
    face: Int[Tensor, "*points"],
    barycentrics: Float[Tensor, "*points 3"],
) -> Float[Tensor, "*points channels"]:
    """Interpolate vertex attributes at points on faces.

    Args:
        attributes: Attributes (V, C) of the vertices.
        faces: Vertex indices (F, 3).
        face: Face (...) of each point; -1 gives zeros.
        barycentrics: Barycentric weights (..., 3) of the face's corners.

    Returns:
        Attributes (..., C) of the points.
    """
    corners = gather_rows(attributes, faces[face.clamp(min=0)].reshape(-1))
    values = (corners.view(*face.shape, 3, attributes.shape[-1]) * barycentrics.unsqueeze(-1)).sum(-2)
    return values * (face >= 0).unsqueeze(-1)


def face_normals(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, "faces 3"]:
    """Return unnormalised face normals, which are cross products of the faces' edges.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).

    Returns:
        Normals (F, 3), whose length is twice the area. They point outward if the faces are counter-clockwise.
    """
    a, b, c = gather_rows(vertices, faces.reshape(-1)).view(-1, 3, 3).unbind(1)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, "vertices 3"]:
    """Return the area-weighted mean of the normals of the faces around each vertex.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).

    Returns:
        Unit normals (V, 3), and 0 for a vertex without faces.
    """
    per_face = face_normals(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), per_face.repeat_interleave(3, dim=0))
    # The small constant is added to the squared length, because the gradient of a norm at 0 is not finite.
    return total / (total.square().sum(-1, keepdim=True) + 1e-24).sqrt()


@dataclass(frozen=True)
class Pinhole:
    """Pinhole cameras recovered from the rays of their images.

    Attributes:
        origin: Positions (B, 3) of the cameras.
        forward: Unit viewing directions (B, 3).
        right: Vectors (B, 3) whose dot product with a point of the plane at depth 1 is the point's column, in pixels
            from the centre of the image.
        down: Vectors (B, 3) whose dot product with the same point is the point's row, in pixels from the centre of the
            image.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """

    origin: Float[Tensor, "batch 3"]
    forward: Float[Tensor, "batch 3"]
    right: Float[Tensor, "batch 3"]
    down: Float[Tensor, "batch 3"]
    height: int
    width: int

    @classmethod
    def from_rays(
        cls, origins: Float[Tensor, "batch height width 3"], directions: Float[Tensor, "batch height width 3"]
    ) -> "Pinhole":
        """Recover cameras from the rays through the centres of all pixels.

        Args:
            origins: Origins (B, H, W, 3) of the rays.
            directions: Unit directions (B, H, W, 3) of cameras whose principal point is the centre of the image.

        Returns:
            The cameras.

        Raises:
            ValueError: The images have fewer than 2 x 2 pixels.
        """
        _, h, w, _ = directions.shape
        if h < 2 or w < 2:
            raise ValueError(f"images must have at least 2 x 2 pixels to recover their cameras, got {h} x {w}")
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

    def project(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "batch points 3"]:
        """Project world points (V, 3) onto the images.

        Returns:
            Column, row and depth (B, V, 3). Columns and rows are in pixels, with pixel centres at half-integers; they
            are meaningless if the depth is not positive. Depth is measured along the viewing axis, in world units.
        """
        offset = points[None] - self.origin[:, None]
        depth = (offset * self.forward[:, None]).sum(-1)
        scale = torch.where(depth.abs() > 1e-6, depth, 1e-6)
        column = (offset * self.right[:, None]).sum(-1) / scale + self.width / 2
        row = (offset * self.down[:, None]).sum(-1) / scale + self.height / 2
        return torch.stack([column, row, depth], dim=-1)


def clip_coordinates(
    screen: Float[Tensor, "batch points 3"], height: int, width: int, near: float = 0.01, far: float = 100.0
) -> Float[Tensor, "batch points 4"]:
    """Convert projected points to OpenGL clip coordinates with y pointing down.

    nvdiffrast places row 0 at y = -1, whereas row 0 is the top row of images in this package.

    Args:
        screen: Column, row and depth (B, V, 3); see `Pinhole.project`.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        near: Depth of the near plane, in world units.
        far: Depth of the far plane, in world units.

    Returns:
        Clip coordinates (B, V, 4).
    """
    column, row, depth = screen.unbind(-1)
    z = depth * (far + near) / (far - near) - 2 * far * near / (far - near)
    return torch.stack([(column / width * 2 - 1) * depth, (row / height * 2 - 1) * depth, z, depth], -1).contiguous()
