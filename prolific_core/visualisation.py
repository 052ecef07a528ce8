"""Pictures for people: what a render holds, a contact sheet, a turntable."""

from pathlib import Path

import torch
from torch import Tensor

from prolific_core.render.result import Render


def layers(render: Render) -> Tensor:
    """Colours, normals, opacity and depth, those that are there, one below another: (B, 3, k H, W) in [0, 1].

    Depth is bright where it is near, by the batch's own range, and black where nothing is.
    """
    shown = [render.rgb] + ([] if render.normal is None else [render.normal]) + [render.opacity.expand_as(render.rgb)]
    if render.depth is not None:
        hit = render.opacity > 0.5
        near, far = (render.depth[hit].min(), render.depth[hit].max()) if hit.any() else (0.0, 1.0)
        bright = 1 - 0.9 * (render.depth - near) / (far - near + 1e-6)
        shown.append((bright * hit).clamp(0, 1).expand_as(render.rgb))
    return torch.cat(shown, dim=-2)


def contact_sheet(views: Tensor, columns: int = 4) -> Tensor:
    """Views (B, 3, S, S) in a grid of `columns` (3, rows S, columns S); missing cells are white."""
    missing = -len(views) % columns
    views = torch.cat([views, torch.ones(missing, *views.shape[1:], device=views.device)])
    rows = views.split(columns)
    return torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)


def write_video(path: Path, frames: Tensor, *, frames_per_second: int = 16) -> None:
    """H.264 video of frames (N, 3, S, S) in [0, 1], S even; on one thread, so that bytes repeat."""
    import imageio.v2 as imageio

    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    options = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
    with imageio.get_writer(
        path, fps=frames_per_second, codec="libx264", quality=8, macro_block_size=2, output_params=options
    ) as writer:
        for frame in pixels:
            writer.append_data(frame)
