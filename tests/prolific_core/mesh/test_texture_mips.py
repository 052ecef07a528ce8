"""Mip levels of a texture do not mix the colours of neighbouring charts at the seams."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prolific_core.config import ExportConfig
from prolific_core.mesh.asset import finish
from prolific_core.mesh.bake import texel_positions

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("pymeshlab")
pytest.importorskip("xatlas")
ndimage = pytest.importorskip("scipy.ndimage")


def colour(points):
    """Return colours that change sign between neighbouring places, so that neighbouring charts differ."""
    return (torch.sin(points * torch.tensor([9.0, 7.0, 8.0])) + 1) / 2


def mip(image, level):
    """Return a mip level of an image (T, T, C), averaged in blocks as GPUs do, as a tensor (1, C, T', T')."""
    for _ in range(level):
        image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def test_two_mip_levels_show_each_chart_without_its_neighbours():
    ball = trimesh.creation.icosphere(3, radius=0.4)
    bumps = 1 + 0.2 * np.sin(9 * ball.vertices).prod(1, keepdims=True)
    vertices = torch.tensor(ball.vertices * bumps, dtype=torch.float32)
    asset = finish(vertices, torch.tensor(ball.faces), colour, ExportConfig(faces=2000, texture_size=512))
    mesh, size = asset.mesh, len(asset.texture)
    cut = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    charts = trimesh.graph.connected_components(cut.face_adjacency, nodes=np.arange(len(cut.faces)))
    assert len(charts) >= 6
    errors = {1: [], 2: [], 5: []}
    for faces in charts:
        texel, _ = texel_positions(as_floats(mesh.vertices), torch.tensor(mesh.faces[faces]), as_floats(mesh.uvs), size)
        row, column = np.divmod(texel.numpy(), size)
        others = np.ones((size, size), bool)
        others[row, column] = False
        nearest = ndimage.distance_transform_edt(others, return_distances=False, return_indices=True)
        alone = asset.texture[nearest[0], nearest[1]]  # as if the texture had no other chart
        place = (torch.from_numpy(np.stack([column, row], -1)).float() + 0.5) / size * 2 - 1
        for level, found in errors.items():
            both = torch.cat([mip(asset.texture, level), mip(alone, level)])
            shown = F.grid_sample(both, place.expand(2, 1, -1, 2), align_corners=False, padding_mode="border")
            found.append((shown[0] - shown[1]).abs().flatten())
    values = {level: torch.cat(found) for level, found in errors.items()}
    assert values[1].max() == 0
    assert values[2].quantile(0.999) < 4 / 255 and values[2].mean() < 0.05 / 255
    assert values[5].quantile(0.999) > 40 / 255  # a level at which colours do mix is seen by this test


def as_floats(values):
    return torch.as_tensor(values).float()
