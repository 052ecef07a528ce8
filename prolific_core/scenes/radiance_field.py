"""Radiance field made of a hash grid, one small network, an initial shape and a background."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prolific_core import seeding
from prolific_core.cameras import Cameras
from prolific_core.config import FieldConfig, NerfConfig
from prolific_core.errors import InputError
from prolific_core.render import Render
from prolific_core.render.hash_grid.encoding import HashEncoding
from prolific_core.render.networks import Background, perceptron
from prolific_core.render.volume.compositing import composite
from prolific_core.render.volume.marching import Samples, check_count, march
from prolific_core.render.volume.occupancy import OccupancyGrid
from prolific_core.render.volume.render import accumulate, shade
from prolific_core.render.volume.resampling import resample
from prolific_core.scenes import backgrounds, regularisers
from prolific_core.scenes.base import Scene
from prolific_core.scenes.initial_density import SCENE_RADIUS, initial_bias
from prolific_core.scenes.shading import Lights, draw_lights

#: Number of rays that are rendered at once without gradients.
CHUNK = 2**13

#: Number of positions that are evaluated at once before importance resampling.
EVALUATED_AT_ONCE = 2**18


class RadianceField(nn.Module, Scene):
    """Radiance field in [-bound, bound]^3 with a background.

    The density is softplus(raw + initial bias [+ noise in training renders]). The colour is sigmoid(network) and, as in
    the paper, does not depend on the direction. `state_dict` holds the parameters and the occupancy grid, but not the
    configuration.

    Args:
        config: Configuration of the field.
        generator: Source of the initial parameters. If None, torch's global generator is used.
        backend: Kernel backend; see `render.backends`.
        max_samples: Maximum number of samples per render, or per patch if a render is divided into patches. The limit
            prevents running out of memory; see `render.volume.marching.march`.
        train_config: Learning rates, regulariser weights and settings for training renders.

    Raises:
        InputError: The bound does not enclose the walls of a 360-degree scene.
    """

    def __init__(
        self,
        config: FieldConfig,
        generator: torch.Generator | None = None,
        backend: str = "auto",
        max_samples: int = 2**25,
        train_config: NerfConfig | None = None,
    ):
        super().__init__()
        if config.scene != "object" and config.bound <= SCENE_RADIUS:
            raise InputError(
                f"field.bound must be larger than {SCENE_RADIUS:g} for scene {config.scene!r}, got {config.bound:g}; "
                "the paper uses 5"
            )
        self.config, self.backend, self.max_samples = config, backend, max_samples
        self.train_config = train_config or NerfConfig()
        self.finished_steps = 0  # of the run; see `before_step`
        self.encoding = HashEncoding(
            config.levels,
            config.features,
            config.log2_entries,
            config.base_resolution,
            config.max_resolution,
            config.interpolation,
            backend,
            generator,
        )
        self.network = perceptron(self.encoding.width, config.hidden_width, config.hidden_layers, 4, generator)
        self.background = Background(16, generator) if config.background == "network" else None
        self.step = 2 * math.sqrt(3) * config.bound / config.samples_per_ray
        self.occupancy = OccupancyGrid(config.occupancy_resolution, config.bound, self.step, config.occupancy_threshold)

    def forward(
        self, x: Float[Tensor, "n 3"], noise: Float[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Return density and colour at world positions.

        Args:
            x: World positions (N, 3).
            noise: Noise (N,) that is added to the raw density before its activation.

        Returns:
            The density (N,) per world unit, at least 0, and the colour (N, 3) in [0, 1].
        """
        c = self.config
        raw_density, raw_colour = self.network(self.encoding((x / c.bound + 1) / 2)).split([1, 3], dim=-1)
        before = raw_density[:, 0] + initial_bias(x, c.scene, c.density_scale, c.density_radius)
        if noise is not None:
            before = before + noise
        return F.softplus(before), torch.sigmoid(raw_colour)

    def density(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Return the density without noise.

        Args:
            x: World positions (N, 3).

        Returns:
            The density (N,) per world unit, at least 0.
        """
        return self(x)[0]

    def colour(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Return the colour.

        Args:
            x: World positions (N, 3).

        Returns:
            The colour (N, 3) in [0, 1].
        """
        return self(x)[1]

    def normals(self, x: Float[Tensor, "n 3"], epsilon: float = 0.01) -> Float[Tensor, "n 3"]:
        """Return unit normals, computed as the normalised negative gradient of the density.

        The gradient is computed by central differences, so that the normals are themselves differentiable.

        Args:
            x: World positions (N, 3).
            epsilon: Half the step of the central differences, as a fraction of the bound.

        Returns:
            The normals (N, 3), which are zero where the density is constant.
        """
        offsets = torch.eye(3, device=x.device) * (epsilon * self.config.bound)
        around = torch.cat([x + sign * offset for offset in offsets for sign in (1, -1)])
        plus_x, minus_x, plus_y, minus_y, plus_z, minus_z = self.density(around).chunk(6)
        gradient = torch.stack([plus_x - minus_x, plus_y - minus_y, plus_z - minus_z], dim=-1)
        return -F.normalize(gradient, dim=-1, eps=1e-8)

    def render(
        self,
        cameras: Cameras,
        resolution: int,
        generator: torch.Generator | None = None,
        *,
        background: str | Tensor | None = None,
        normals: bool = False,
    ) -> Render:
        """Render one image for each camera; see `Scene.render` and `render_rays`.

        If a generator is given, the settings of `train_config` apply: the images may be shaded by lights, and
        `Render.losses` holds the orientation loss if the weight of that loss is positive.

        Args:
            cameras: Cameras on the scene's device.
            resolution: Height and width of the images in pixels.
            generator: Source of the random numbers of a training render. If None, the render is deterministic.
            background: Background behind the object; see `background_colour`.
            normals: Whether to render normals too.
        """
        origins, directions = cameras.rays(resolution)
        if generator is None:
            return self.render_rays(origins, directions, background=background, normals=normals)
        config = self.train_config
        oriented = config.losses.orientation > 0
        lights = draw_lights(config.shading, cameras, self.progress, generator)
        any_random = self.finished_steps >= config.random_background_after
        render = self.render_rays(
            origins,
            directions,
            generator=generator,
            background=background,
            random_background_probability=config.random_background if any_random else 0.0,
            normals=normals or oriented,
            patch=config.patch,
            lights=lights,
        )
        if oriented:
            render.losses["orientation"] = regularisers.orientation(render, directions)
        return render

    def render_rays(
        self,
        origins: Float[Tensor, "batch height width 3"],
        directions: Float[Tensor, "batch height width 3"],
        *,
        generator: torch.Generator | None = None,
        background: str | Tensor | None = None,
        random_background_probability: float = 0.0,
        normals: bool = False,
        patch: int | None = None,
        lights: Lights | None = None,
    ) -> Render:
        """Render images from the rays of their pixels.

        Args:
            origins: World positions (B, H, W, 3).
            directions: Unit vectors (B, H, W, 3).
            generator: Source of the step jitter, the density noise and the random backgrounds. If None, the render
                is deterministic and uses none of them.
            background: Background behind the object; see `background_colour`.
            random_background_probability: Probability that an image has a plain random background. It applies
                only if a generator is given.
            normals: Whether to render normals, which costs six additional evaluations per sample.
            patch: Number of rays whose autograd graph is held in memory at once; None for all rays. The images are
                first rendered without a graph, and the backward pass then renders each patch again and backpropagates
                through it. The result is the same up to the order of float32 additions.
            lights: The light of each image, under which the colour is the albedo; see `shading.py`. None renders the
                colour itself. Lights need normals, which cost as much as `normals` does.

        Returns:
            The render. If gradients are disabled, rays are rendered in chunks, and `samples`, `weights` and
            `sample_normals` are None.
        """
        batch, height, width, _ = origins.shape
        behind = self.background_colour(directions, background)
        if generator is not None and random_background_probability > 0:
            behind = backgrounds.some_random(behind, random_background_probability, generator)
        rays = origins.reshape(-1, 3), directions.reshape(-1, 3)
        lights = lights and lights.repeat(height * width)
        if torch.is_grad_enabled():
            samples, noise = self._draw(*rays, generator, patch)
            parts = self._patches(*rays, samples, noise, normals, lights, patch)
        else:
            parts = []
            for first in range(0, len(rays[0]), CHUNK):
                chunk = slice(first, first + CHUNK)
                piece = rays[0][chunk], rays[1][chunk]
                parts.append(self._shade(*piece, *self._draw(*piece, generator), normals, lights and lights[chunk]))

        def image(values: tuple[Tensor, ...]) -> Tensor:
            return torch.cat(values).reshape(batch, height, width, -1).permute(0, 3, 1, 2)

        colour, opacity, depth, weights, sample_normals, normal = zip(*parts)
        opacity = image(opacity)
        result = Render(rgb=image(colour) + (1 - opacity) * behind, opacity=opacity, depth=image(depth))
        if normals:
            result.normal = 0.5 + 0.5 * opacity * F.normalize(image(normal), dim=1, eps=1e-6)
        if torch.is_grad_enabled():
            result.samples, result.weights = samples, torch.cat(weights)
            result.sample_normals = torch.cat(sample_normals) if normals else None
        return result

    def _draw(
        self, origins: Tensor, directions: Tensor, generator: torch.Generator | None, patch: int | None = None
    ) -> tuple[Samples, Tensor | None]:
        """Place samples on rays (R, 3), and draw the noise (M,) that is added to their densities."""
        patches = 1 if patch is None else max(1, -(-len(origins) // patch))
        samples = march(
            origins,
            directions,
            self.occupancy.occupied,
            bound=self.config.bound,
            step=self.step,
            generator=generator,
            max_samples=self.max_samples * patches,
            backend=self.backend,
        )
        if self.config.importance_samples > 0:
            samples = self._resample(origins, directions, samples, generator)
            check_count(len(samples), self.max_samples * patches)
        noise = None
        if generator is not None and self.config.density_noise > 0:
            device = origins.device
            drawn = torch.randn(len(samples), generator=seeding.on_device(generator, device), device=device)
            noise = drawn.to(origins) * self.config.density_noise
        return samples, noise

    @torch.no_grad()
    def _resample(
        self, origins: Tensor, directions: Tensor, samples: Samples, generator: torch.Generator | None
    ) -> Samples:
        """Add importance samples to rays (R, 3), with positions that are constant in the backward pass."""
        positions = samples.positions(origins, directions)
        density = torch.cat([self.density(part) for part in positions.split(EVALUATED_AT_ONCE)] or [positions[:, 0]])
        weights = composite(density, torch.zeros_like(positions), samples, self.backend).weights
        return resample(samples, weights, self.config.importance_samples, generator)

    def _patches(
        self,
        origins: Tensor,
        directions: Tensor,
        samples: Samples,
        noise: Tensor | None,
        normals: bool,
        lights: Lights | None,
        patch: int | None,
    ) -> list[tuple]:
        """Shade all rays at once or in patches. The autograd graph of a patch is built only in the backward pass."""
        rays = len(origins)
        if patch is None or patch >= rays:
            return [self._shade(origins, directions, samples, noise, normals, lights)]
        parts = []
        for first, (rows, piece) in zip(range(0, rays, patch), samples.split(patch)):
            check_count(len(piece), self.max_samples)
            part = slice(first, first + piece.rays)
            part_noise = None if noise is None else noise[rows]
            given = origins[part], directions[part], piece, part_noise, normals, lights and lights[part]
            # The state of the global generators need not be restored, because shading draws no random numbers.
            parts.append(checkpoint(self._shade, *given, use_reentrant=False, preserve_rng_state=False))
        return parts

    def _shade(
        self,
        origins: Tensor,
        directions: Tensor,
        samples: Samples,
        noise: Tensor | None,
        normals: bool,
        lights: Lights | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Composite the samples of rays (R, 3), without a background.

        The result is the colour (R, 3), the opacity (R,), the depth (R,), the sample weights (M,), the sample normals
        (M, 3) and their weighted sums (R, 3). The last two are None unless `normals` is set.
        """
        if not normals and lights is None:
            volume = shade(lambda x: self(x, noise), origins, directions, samples, self.backend)
            return volume.colour, volume.opacity, volume.depth, volume.weights, None, None
        found = self.normals(samples.positions(origins, directions))

        def lit(x: Tensor) -> tuple[Tensor, Tensor]:
            density, colour = self(x, noise)
            return density, colour if lights is None else lights.shade(colour, found, x, samples.ray_index)

        volume = shade(lit, origins, directions, samples, self.backend)
        total = accumulate(found, volume.weights, samples) if normals else None
        return volume.colour, volume.opacity, volume.depth, volume.weights, found if normals else None, total

    def background_colour(
        self, directions: Float[Tensor, "batch height width 3"], background: str | Tensor | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the colours behind the object; see `backgrounds.background_colour`.

        Args:
            directions: Unit vectors (B, H, W, 3).
            background: The background; None selects the configured one.
        """
        background = self.config.background if background is None else background
        return backgrounds.background_colour(directions, background, self.background)

    def update_occupancy(self, step: int, generator: torch.Generator | None = None) -> bool:
        """Update the occupancy grid at every 16th call and at step 0.

        Each field counts its own calls (see `OccupancyGrid.due`), because each step of a run trains only one of
        the particles.

        Args:
            step: Step of the run.
            generator: Source of the positions at which the density is evaluated. If None, they are the centres of the
                cells.

        Returns:
            Whether the grid was updated.
        """
        due = self.occupancy.due() or step == 0
        if due:
            self.occupancy.update(self.density, generator)
        return due

    def before_step(self, step: int, generator: torch.Generator | None = None) -> None:
        """Update the occupancy grid if an update is due, and note the step; see `Scene.before_step`."""
        self.finished_steps = step
        self.update_occupancy(step, generator)

    def losses(self, render: Render, progress: float) -> dict[str, Tensor]:
        """Return the weighted regularisers that `train_config` enables; see `Scene.losses`."""
        config = self.train_config.losses
        weights = {"opacity": config.opacity_at(progress), "sparsity": config.sparsity, "entropy": config.entropy}
        losses = {name: weight * getattr(regularisers, name)(render) for name, weight in weights.items() if weight > 0}
        return losses | {name: getattr(config, name) * value for name, value in render.losses.items()}

    def parameter_groups(self, learning_rates: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
        """Return the parameter groups "grid", "networks" and "background", without weight decay.

        Args:
            learning_rates: Learning rates by group; defaults to those of `train_config`. Groups without a learning rate
                are omitted.
        """
        config = self.train_config
        rates = learning_rates or {
            "grid": config.grid_learning_rate,
            "networks": config.network_learning_rate,
            "background": config.background_learning_rate,
        }
        modules = {"grid": self.encoding, "networks": self.network, "background": self.background}
        return [
            {"name": name, "params": list(module.parameters()), "lr": rates[name], "weight_decay": 0.0}
            for name, module in modules.items()
            if module is not None and name in rates
        ]
