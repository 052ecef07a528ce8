"""Substitutes for nvdiffrast and tiny-cuda-nn, which check their arguments as the manuals and sources specify."""

import sys
import types

import torch
from torch import nn

from prolific_core.render import backends


def install(monkeypatch) -> None:
    """Make both packages importable, so that `auto` and `cuda` choose them for tensors on a GPU."""
    rasterizer = types.ModuleType("nvdiffrast.torch")
    rasterizer.__dict__.update(rasterize=rasterize, RasterizeCudaContext=Context)
    package = types.ModuleType("nvdiffrast")
    package.__dict__["torch"] = rasterizer
    encoder = types.ModuleType("tinycudann")
    encoder.__dict__["Encoding"] = Encoding
    for name, module in {"nvdiffrast": package, "nvdiffrast.torch": rasterizer, "tinycudann": encoder}.items():
        monkeypatch.setitem(sys.modules, name, module)
    importable = backends.importable
    present = ("nvdiffrast", "tinycudann")
    monkeypatch.setattr(backends, "importable", lambda name: name in present or importable(name))


class Context:
    def __init__(self, device=None):
        self.device = torch.device(device)


def rasterize(context, pos, tri, resolution, ranges=None, grad_db=True):
    """Rasterise clip coordinates (B, V, 4); channel 3 of the result is the face's number from 1, or 0."""
    from prolific_core.render.mesh.raster import Visibility

    assert isinstance(context, Context) and ranges is None
    for tensor, dtype in ((pos, torch.float32), (tri, torch.int32)):
        assert tensor.dtype == dtype and tensor.is_contiguous() and tensor.device.type == "cuda"
    assert pos.dim() == 3 and pos.shape[2] == 4 and (pos[..., 3] > 0).all()
    height, width = resolution
    y, x = torch.meshgrid(
        (torch.arange(height, device=pos.device) + 0.5) / height * 2 - 1,
        (torch.arange(width, device=pos.device) + 0.5) / width * 2 - 1,
        indexing="ij",
    )
    origins = torch.stack([x, y, torch.full_like(x, -1.5)], -1)[None]
    directions = torch.tensor([0.0, 0.0, 1.0]).to(pos.device).expand_as(origins)
    result = torch.zeros(len(pos), height, width, 4, device=pos.device)
    for view, points in enumerate(pos[..., :3] / pos[..., 3:]):
        result[view, ..., 3] = Visibility(points, tri.long(), "warp")(origins, directions)[0] + 1
    return result, torch.zeros_like(result)


class Encoding(nn.Module):
    """tiny-cuda-nn's `Encoding` with a hash grid: its parameters are one vector, and its input is on the GPU."""

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        from prolific_core.render.hash_grid.levels import layout

        assert n_input_dims == 3 and dtype == torch.float32 and encoding_config["otype"] == "HashGrid"
        levels, base = encoding_config["n_levels"], encoding_config["base_resolution"]
        finest = round(base * encoding_config["per_level_scale"] ** (levels - 1))
        self.levels = layout(levels, encoding_config["log2_hashmap_size"], base, finest)
        self.features = encoding_config["n_features_per_level"]
        self.smooth = encoding_config["interpolation"] == "Smoothstep"
        rows = self.levels[-1].offset + self.levels[-1].entries
        self.params = nn.Parameter(torch.zeros(rows * self.features, device="cuda"))

    def forward(self, x):
        from prolific_core.render.hash_grid.encoding import encode_reference

        assert x.device.type == "cuda" and self.params.device.type == "cuda"
        return encode_reference(x, self.params.view(-1, self.features), self.levels, self.smooth)
