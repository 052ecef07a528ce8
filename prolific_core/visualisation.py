"""Images, contact sheets and videos of renders."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.render.result import Render


def layers(render: Render) -> Float[Tensor, "batch 3 rows width"]:
    """Stack the available colours, normals, opacity and depth of a render vertically.

    Returns:
        Images (B, 3, k H, W) in [0, 1]. Depth is normalised over the batch, so that near surfaces are bright and empty
        pixels are black.
    """
    rows = [render.rgb] + ([] if render.normal is None else [render.normal]) + [render.opacity.expand_as(render.rgb)]
    if render.depth is not None:
        hit = render.opacity > 0.5
        near, far = (render.depth[hit].min(), render.depth[hit].max()) if hit.any() else (0.0, 1.0)
        bright = 1 - 0.9 * (render.depth - near) / (far - near + 1e-6)
        rows.append((bright * hit).clamp(0, 1).expand_as(render.rgb))
    return torch.cat(rows, dim=-2)


def contact_sheet(
    views: Float[Tensor, "batch 3 height width"], columns: int = 4
) -> Float[Tensor, "3 rows_height columns_width"]:
    """Arrange images in a grid.

    Args:
        views: Images (B, 3, H, W) in [0, 1].
        columns: Images per row.

    Returns:
        One image (3, rows * H, columns * W), with empty cells in white.
    """
    missing = -len(views) % columns
    views = torch.cat([views, torch.ones(missing, *views.shape[1:], device=views.device)])
    rows = views.split(columns)
    return torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)


def save_image(path: str | Path, images: Float[Tensor, "*batch 3 height width"]) -> None:
    """Write an image, or a batch of images as a contact sheet.

    Args:
        path: The file to write, whose suffix selects the format.
        images: One image (3, H, W) or a batch (B, 3, H, W) in [0, 1].
    """
    from PIL import Image

    image = images if images.dim() == 3 else contact_sheet(images)
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(path)


def write_video(
    path: str | Path, frames: Float[Tensor, "frames 3 height width"], *, frames_per_second: int = 16
) -> None:
    """Write an H.264 video.

    The video is encoded on one thread, so that identical frames produce identical files.

    Args:
        path: The file to write.
        frames: Frames (N, 3, H, W) in [0, 1], whose height and width are even.
        frames_per_second: Frame rate of the video.
    """
    import imageio.v2 as imageio

    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    options = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
    with imageio.get_writer(
        path, fps=frames_per_second, codec="libx264", quality=8, macro_block_size=2, output_params=options
    ) as writer:
        for frame in pixels:
            writer.append_data(frame)  # pyright: ignore[reportAttributeAccessIssue] (imageio's type is too general)
