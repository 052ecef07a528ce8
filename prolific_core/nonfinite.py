"""Training steps with values that are infinite or not a number, which are skipped and counted.

One such step would destroy the trained state for good: Adam's moments keep the value, and every later step uses them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prolific_core.errors import ProlificError

LIMIT = 5  # skipped steps in a row after which a run stops


class NonFiniteSteps:
    """Counter of skipped steps, which stops a run after several in a row.

    Args:
        subject: What is trained, for the message.
        advice: How to avoid values that are not finite, for the message.

    Attributes:
        total: Number of skipped steps, which checkpoints hold.
    """

    def __init__(self, subject: str, advice: str):
        self._subject, self._advice = subject, advice
        self.total = self._in_a_row = 0

    def must_skip(self, values: Sequence[float]) -> bool:
        """Count a step and return whether to skip it.

        Args:
            values: Numbers that are all finite if the step is sound, such as its loss and its largest gradient.

        Returns:
            Whether one of the values is not finite.

        Raises:
            ProlificError: The last `LIMIT` steps were all skipped.
        """
        if all(math.isfinite(value) for value in values):
            self._in_a_row = 0
            return False
        self.total += 1
        self._in_a_row += 1
        if self._in_a_row == LIMIT:
            raise ProlificError(
                f"{self._subject}: the loss or its gradient is not a number in {LIMIT} steps in a row; {self._advice}"
            )
        return True


def largest_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the largest absolute value in the gradients of some parameters, which is not finite if one value is not.

    Args:
        parameters: Parameters, of which some may have no gradient.

    Returns:
        A scalar on the device of the gradients.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients, math.inf)


def is_finite(state: Any) -> bool:
    """Return whether all floating-point tensors in nested dictionaries, lists and tuples are finite.

    Args:
        state: The nested values.
    """
    found: dict[torch.device, list[Tensor]] = {}  # one wait for the GPU for all tensors
    for tensor in _tensors(state):
        found.setdefault(tensor.device, []).append(torch.isfinite(tensor).all())
    return all(bool(torch.stack(flags).all()) for flags in found.values())


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (dict, list, tuple)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)
