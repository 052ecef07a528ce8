"""The radiance field: a hash grid, one small network, an initial shape, a background."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prolific_core.errors import InputError
from prolific_core.render import Render
from prolific_core.render.hash_grid.encoding import HashEncoding
from prolific_core.render.networks import Background, perceptron
from prolific_core.render.volume.compositing import composite
from prolific_core.render.volume.marching import Samples, check_count, march
from prolific_core.render.volume.occupancy import OccupancyGrid
from prolific_core.render.volume.render import accumulate, shade
from prolific_core.render.volume.resampling import resample

#: r of the initial density of a scene (arXiv 2305.16213, appendix; the object's r is a parameter).
SCENE_RADIUS = 2.5

PLAIN = {"white": 1.0, "grey": 0.5, "black": 0.0}

#: Rays rendered at once when no gradient is wanted.
CHUNK = 2**13

#: Positions looked at at once before importance resampling.
LOOK = 2**18


def object_bias(x: Tensor, scale: float, radius: float) -> Tensor:
    """lambda (1 - |x| / r), (N, 3) -> (N,): a soft ball of the given radius."""
    return scale * (1 - x.norm(dim=-1) / radius)


def scene_bias(x: Tensor, scale: float, radius: float = SCENE_RADIUS) -> Tensor:
    """-lambda (1 - |x| / r): hollow, with walls beyond r, for cameras inside."""
    return -object_bias(x, scale, radius)


def object_in_scene_bias(x: Tensor, scale: float, radius: float, scene_radius: float = SCENE_RADIUS) -> Tensor:
    """The ball near the centre and the hollow around it, continuous in between.

    They meet where 1 - d/r = -(1 - d/R), at d = 2 / (1/r + 1/R): 5/6 for the
    paper's r = 0.5 and R = 2.5.
    """
    switch = 2 / (1 / radius + 1 / scene_radius)
    inner = x.norm(dim=-1) < switch
    return torch.where(inner, object_bias(x, scale, radius), scene_bias(x, scale, scene_radius))


def initial_bias(x: Tensor, scene: str, scale: float, radius: float) -> Tensor:
    """sigma_init (N,), before the activation, of positions (N, 3) by scene mode.

    scale is |lambda|: its sign belongs to the mode. radius is the object's;
    the scene's is SCENE_RADIUS.
    """
    if scene == "object":
        return object_bias(x, abs(scale), radius)
    if scene == "scene":
        return scene_bias(x, abs(scale))
    if scene == "object-in-scene":
        return object_in_scene_bias(x, abs(scale), radius)
    raise InputError(f"scene {scene!r}: object, scene or object-in-scene")


class RadianceField(nn.Module):
    """Density and colour everywhere in [-bound, bound]^3, and a background.

    density = softplus(raw + sigma_init(x) [+ noise while training])
    colour = sigmoid(network), the same from every side, as in the paper.

    config: anything with the attributes of `config.FieldConfig`.
    generator: draws the initial parameters; the same seed, the same bytes.
    backend: of all kernels, see `render.backends`.
    max_samples: guard against running out of memory, see `marching.march`;
        per patch, where a render goes by patches.

    state_dict holds parameters and the occupancy grid: everything but the
    config that is needed to continue or to render.
    """

    def __init__(
        self,
        config: Any,
        generator: torch.Generator | None = None,
        backend: str = "auto",
        max_samples: int = 2**25,
    ):
        super().__init__()
        if config.scene != "object" and config.bound <= SCENE_RADIUS:
            raise InputError(
                f"field.bound = {config.bound:g}: a {config.scene!r} has walls at distance "
                f"{SCENE_RADIUS:g}, so its bound must be larger (the paper: 5)"
            )
        self.config, self.backend, self.max_samples = config, backend, max_samples
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

    # -- the field

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Positions (N, 3) in the world -> density (N,) >= 0 per world unit, colour (N, 3) in [0, 1].

        noise: (N,), added before the density's activation.
        """
        c = self.config
        raw_density, raw_colour = self.network(self.encoding((x / c.bound + 1) / 2)).split([1, 3], dim=-1)
        before = raw_density[:, 0] + initial_bias(x, c.scene, c.density_scale, c.density_radius)
        if noise is not None:
            before = before + noise
        return F.softplus(before), torch.sigmoid(raw_colour)

    def density(self, x: Tensor) -> Tensor:
        """(N, 3) -> (N,), per world unit, without noise."""
        return self(x)[0]

    def colour(self, x: Tensor) -> Tensor:
        """(N, 3) -> (N, 3) in [0, 1]."""
        return self(x)[1]

    def normals(self, x: Tensor, epsilon: float = 0.01) -> Tensor:
        """Unit normals (N, 3) at (N, 3): minus the density's gradient.

        By central differences over 2 * epsilon * bound, so that they can be
        trained through. Zero where the density is flat.
        """
        offsets = torch.eye(3, device=x.device) * (epsilon * self.config.bound)
        around = torch.cat([x + sign * offset for offset in offsets for sign in (1, -1)])
        plus_x, minus_x, plus_y, minus_y, plus_z, minus_z = self.density(around).chunk(6)
        gradient = torch.stack([plus_x - minus_x, plus_y - minus_y, plus_z - minus_z], dim=-1)
        return -F.normalize(gradient, dim=-1, eps=1e-8)

    # -- pictures

    def render(
        self,
        origins: Tensor,
        directions: Tensor,
        *,
        generator: torch.Generator | None = None,
        training: bool = False,
        background: str | Tensor | None = None,
        random_background_probability: float = 0.0,
        normals: bool = False,
        patch: int | None = None,
    ) -> Render:
        """Pictures along rays (B, H, W, 3); directions are unit vectors.

        training: jitters the steps and adds the density noise, from
            `generator` (required). Otherwise the picture is deterministic.
        background: see `background_colour`.
        random_background_probability: while training, the chance that an
            image gets a plain random colour behind it instead.
        normals: also render normals (six more evaluations a sample).
        patch: rays whose graph is held at once. The picture is rendered
            without a graph; the backward pass, once it knows the gradient on
            the whole picture, renders patch after patch again and goes on
            through each into the field. The draws are the same, so is the
            result, but for the order of float32 sums; memory is a patch's.

        Without gradients, rays are rendered in chunks and samples, weights and
        sample_normals are None.
        """
        if training and generator is None:
            raise InputError("a training render draws random numbers: give it a generator")
        batch, height, width, _ = origins.shape
        behind = self.background_colour(directions, background)
        if training and random_background_probability > 0:
            behind = _some_random(behind, random_background_probability, generator)
        rays = origins.reshape(-1, 3), directions.reshape(-1, 3)
        if torch.is_grad_enabled():
            samples, noise = self._draw(*rays, generator, training, patch)
            parts = self._patches(*rays, samples, noise, normals, patch)
        else:
            pieces = list(zip(rays[0].split(CHUNK), rays[1].split(CHUNK)))
            drawn = (self._draw(*piece, generator, training) for piece in pieces)
            parts = [self._shade(*piece, *draw, normals) for piece, draw in zip(pieces, drawn)]

        def image(values: Sequence[Tensor]) -> Tensor:
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
        self,
        origins: Tensor,
        directions: Tensor,
        generator: torch.Generator | None,
        training: bool,
        patch: int | None = None,
    ) -> tuple[Samples, Tensor | None]:
        """Where the field is asked along rays (R, 3), and the noise (M,) on its density there: all that is random."""
        patches = 1 if patch is None else max(1, -(-len(origins) // patch))
        samples = march(
            origins,
            directions,
            self.occupancy.occupied,
            bound=self.config.bound,
            step=self.step,
            generator=generator if training else None,
            max_samples=self.max_samples * patches,
            backend=self.backend,
        )
        if self.config.importance_samples > 0:
            samples = self._resample(origins, directions, samples, generator if training else None)
            check_count(len(samples), self.max_samples * patches)
        noise = None
        if training and self.config.density_noise > 0:
            noise = torch.randn(len(samples), generator=generator).to(origins) * self.config.density_noise
        return samples, noise

    @torch.no_grad()
    def _resample(
        self, origins: Tensor, directions: Tensor, samples: Samples, generator: torch.Generator | None
    ) -> Samples:
        """More samples of rays (R, 3) where a first look at the densities finds weight; they are constants of the picture."""
        positions = samples.positions(origins, directions)
        density = torch.cat([self.density(part) for part in positions.split(LOOK)] or [positions[:, 0]])
        weights = composite(density, torch.zeros_like(positions), samples, self.backend).weights
        return resample(samples, weights, self.config.importance_samples, generator)

    def _patches(
        self,
        origins: Tensor,
        directions: Tensor,
        samples: Samples,
        noise: Tensor | None,
        normals: bool,
        patch: int | None,
    ) -> list[tuple]:
        """`_shade` of all rays at once, or of patches whose graphs are made when the backward pass asks for them."""
        rays = len(origins)
        if patch is None or patch >= rays:
            return [self._shade(origins, directions, samples, noise, normals)]
        parts = []
        for first in range(0, rays, patch):
            last = min(first + patch, rays)
            piece = samples.of_rays(first, last)
            check_count(len(piece), self.max_samples)
            rows = slice(int(samples.offsets[first]), int(samples.offsets[last]))
            given = (
                origins[first:last],
                directions[first:last],
                piece,
                None if noise is None else noise[rows],
                normals,
            )
            # Nothing in there draws: the global generators need no keeping.
            parts.append(checkpoint(self._shade, *given, use_reentrant=False, preserve_rng_state=False))
        return parts

    def _shade(
        self, origins: Tensor, directions: Tensor, samples: Samples, noise: Tensor | None, normals: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Of rays (R, 3), without a background: colour (R, 3), opacity and depth (R,), the samples' weights (M,)
        and, if asked, the samples' normals (M, 3) and their weighted sums (R, 3)."""
        volume = shade(lambda x: self(x, noise), origins, directions, samples, self.backend)
        if not normals:
            return volume.colour, volume.opacity, volume.depth, volume.weights, None, None
        found = self.normals(volume.positions)
        total = accumulate(found, volume.weights, samples)
        return volume.colour, volume.opacity, volume.depth, volume.weights, found, total

    def background_colour(self, directions: Tensor, background: str | Tensor | None = None) -> Tensor:
        """What is behind the object, (B, 3, H, W), for unit directions (B, H, W, 3).

        background: None for the config's own; a name in PLAIN or "network"; or
            a colour as a tensor (3,), (B, 3) or (B, 3, H, W) in [0, 1].
        """
        background = self.config.background if background is None else background
        batch, height, width, _ = directions.shape
        if isinstance(background, Tensor):
            colour = background.to(directions)
            colour = colour if colour.dim() == 4 else colour.reshape(-1, 3, 1, 1)
            return colour.expand(batch, 3, height, width)
        if background in PLAIN:
            return directions.new_full((batch, 3, height, width), PLAIN[background])
        if background == "network" and self.background is not None:
            return self.background(directions).permute(0, 3, 1, 2)
        known = [*PLAIN, *(["network"] if self.background is not None else [])]
        raise InputError(f"background {background!r}: one of {', '.join(known)}, or a colour")

    # -- training

    def update_occupancy(self, step: int, generator: torch.Generator) -> bool:
        """Call once before each training step; updates the occupancy grid when it is time.

        It is every 16th call, counted by the field itself (see
        `OccupancyGrid.due`), and whenever `step`, the run's own count, is 0.
        Returns whether there was an update.
        """
        due = self.occupancy.due() or step == 0
        if due:
            self.occupancy.update(self.density, generator)
        return due

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict]:
        """Groups for an optimizer from rates for "grid", "networks" and "background"; no weight decay."""
        modules = {"grid": self.encoding, "networks": self.network, "background": self.background}
        return [
            {"name": name, "params": list(module.parameters()), "lr": learning_rates[name], "weight_decay": 0.0}
            for name, module in modules.items()
            if module is not None
        ]


def _some_random(behind: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Replace the background (B, 3, H, W) of each image, with a probability, by a plain random colour."""
    batch = len(behind)
    replace = (torch.rand(batch, generator=generator) < probability).to(behind.device)
    colour = torch.rand(batch, 3, generator=generator).to(behind)
    return torch.where(replace[:, None, None, None], colour[:, :, None, None], behind)
