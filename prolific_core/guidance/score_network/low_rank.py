"""LoRA layers in half precision, whose factors are cast once per training step.

peft casts the input of every adapted layer to the float32 factors, multiplies in float32 and casts the sum back, in six
additional kernels per layer. Here, copies of the factors in the data type of the U-Net are multiplied, in two.
"""

import weakref
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def call_after_gradient(tensor: Tensor, method: Callable[[], None]) -> None:
    """Call a method of an object when a backward pass has computed the gradient of a tensor.

    The tensor does not keep the object alive. If both referred to each other, they would never be freed, because
    Python's garbage collector cannot follow autograd's hooks.

    Args:
        tensor: A leaf that requires a gradient.
        method: A bound method.
    """
    weak = weakref.WeakMethod(method)

    def hook(_: Tensor) -> None:
        if (alive := weak()) is not None:
            alive()

    tensor.register_post_accumulate_grad_hook(hook)  # pyright: ignore[reportUnknownMemberType]


class CastFactor:
    """Copy of a trained factor in another data type, which passes its gradient on to the factor.

    Args:
        factor: The trained factor in full precision.
        dtype: Data type of the copy.

    Attributes:
        factor: The trained factor.
        value: The copy, which layers multiply by.
    """

    def __init__(self, factor: nn.Parameter, dtype: torch.dtype):
        self.factor = factor
        self.value = factor.detach().to(dtype).requires_grad_(True)
        call_after_gradient(self.value, self._pass_on)

    @torch.no_grad()
    def _pass_on(self) -> None:
        gradient, self.value.grad = cast(Tensor, self.value.grad).to(self.factor.dtype), None
        self.factor.grad = gradient if self.factor.grad is None else self.factor.grad + gradient


@torch.no_grad()
def write(factors: list[CastFactor]) -> None:
    """Copy the values of all factors, in one kernel on a GPU."""
    if factors:
        torch._foreach_copy_([one.value for one in factors], [one.factor for one in factors])  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage, reportUnknownMemberType]


class LowRankLayer(nn.Module):
    """Linear or convolutional layer with output W x + B A x.

    Args:
        base: The frozen layer W, which may itself be wrapped by another adapter.
        shape: The original layer inside `base`, which determines the kind of the layer.
        down: Factor A, with the kernel of `shape`.
        up: Factor B, with a kernel of size 1.

    Attributes:
        out_features: Width of the output, under the name that `torch.nn.Linear` has for it.
    """

    def __init__(self, base: nn.Module, shape: "nn.Linear | nn.Conv2d", down: Tensor, up: Tensor):
        super().__init__()
        self.base = base
        self.out_features = len(up)
        # Plain tensors instead of parameters, so that they are neither saved nor trained.
        self.down, self.up = down, up
        self._convolution = (shape.stride, shape.padding, shape.dilation) if isinstance(shape, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer.

        Args:
            x: Input of the original layer.

        Returns:
            The output.
        """
        output: Tensor = self.base(x)
        if self._convolution is not None:
            stride, padding, dilation = self._convolution
            hidden = functional.conv2d(x, self.down, None, stride, padding, dilation)
            return output + functional.conv2d(hidden, self.up)
        hidden = functional.linear(x, self.down).flatten(0, -2)
        return torch.addmm(output.flatten(0, -2), hidden, self.up.t()).view_as(output)
