"""Pictures for people: a contact sheet and a turntable."""

from pathlib import Path

import torch
from torch import Tensor


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
