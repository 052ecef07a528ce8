"""Interface of the scenes that `optimise` can train."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prolific_core.cameras import Cameras
from prolific_core.render.result import Render


@runtime_checkable
class Scene(Protocol):
    """Protocol for a scene, which is a set of trainable parameters that can be rendered.

    A scene is one particle of variational score distillation. To add a new kind of scene, define a class that inherits
    from `torch.nn.Module` and this protocol, and that implements `render`:

        class Constant(nn.Module, Scene):
            def __init__(self):
                super().__init__()
                self.colour = nn.Parameter(torch.zeros(3))

            def render(self, cameras, resolution, generator=None):
                rgb = self.colour.sigmoid().view(1, 3, 1, 1).expand(len(cameras), 3, resolution, resolution)
                return Render(rgb=rgb, opacity=torch.ones_like(rgb[:, :1]))

    Attributes:
        learning_rate: Learning rate of all parameters, unless `parameter_groups` is overridden.
        renders_latents: Whether `Render.rgb` holds latents of the prior, which need no encoding.
        progress: Fraction of the run that is done, in [0, 1], which the training loop sets before every step.
    """

    learning_rate: float = 0.01
    renders_latents: bool = False
    progress: float = 0.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates, in the format of `torch.optim`."""
        return [{"params": list(self.parameters()), "lr": self.learning_rate}]

    def render(self, cameras: Cameras, resolution: int, generator: torch.Generator | None = None) -> Render:
        """Render one image of `resolution` x `resolution` pixels for each camera.

        Args:
            cameras: Cameras on the scene's device.
            resolution: Height and width of the images in pixels.
            generator: Source of the random numbers of a training render (jitter, noise, backgrounds). If
                None, the render is deterministic.
        """
        ...

    def before_step(self, step: int, generator: torch.Generator | None = None) -> None:
        """Prepare for a training step, for example by updating an occupancy grid.

        Args:
            step: Number of finished steps.
            generator: Source of the random numbers. If None, none are drawn.
        """

    def losses(self, render: Render, progress: float) -> dict[str, Tensor]:
        """Return the weighted regularisers of a training render, as scalars by name.

        Args:
            render: The result of `render` in this step.
            progress: Fraction of the run that is done, in [0, 1].
        """
        return {}

    # `torch.nn.Module` provides the methods below.

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over all parameters."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all state that changes during training, for checkpoints."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a state returned by `state_dict`.

        Args:
            state_dict: The state.
        """
