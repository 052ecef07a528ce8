"""Muon for the matrices and convolutions inside a network, and AdamW for its other parameters.

Muon orthogonalises the momentum of a matrix before each step (Jordan et al., "Muon: An optimizer for hidden layers in
neural networks", 2024). Its steps have the size of AdamW's (Liu et al., arXiv 2502.16982, eq. 4), so both share a
learning rate schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def as_matrix(x: Tensor) -> Tensor:
    """Return a matrix or the weight of a convolution as a matrix with one row per output.

    Args:
        x: Tensor with two dimensions, or with four dimensions in the channels-last memory format.

    Returns:
        A view of `x`.

    Raises:
        RuntimeError: If a tensor with four dimensions has another memory format.
    """
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).view(len(x), -1)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer from a checkpoint.

    A checkpoint stores contiguous tensors, but fused optimizers need moments with the memory format of the parameters.

    Args:
        optimizer: Optimizer to restore.
        state: What its `state_dict` returned.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for some matrices and convolutions, and AdamW for the other parameters.

    Args:
        matrices: Parameters with two dimensions, or with four dimensions in the channels-last memory format.
        others: All other parameters.
        lr: Learning rate of AdamW.
        ratio: Learning rate of Muon, relative to that of AdamW.
        weight_decay: Weight decay of both.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        ratio: float = 2.0,
        weight_decay: float = 0.01,
    ):
        self.matrices, others, self.ratio = list(matrices), list(others), ratio
        # torch's Muon accepts only matrices. These share the memory of the parameters.
        self.views = [nn.Parameter(as_matrix(p.detach())) for p in self.matrices]
        self.muon = torch.optim.Muon(self.views, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        super().__init__([*self.matrices, *others], {"lr": lr})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step with the learning rate of the first parameter group.

        Args:
            closure: Not supported.
        """
        lr = self.param_groups[0]["lr"]
        for optimizer, factor in ((self.muon, self.ratio), (self.adamw, 1.0)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
        for view, parameter in zip(self.views, self.matrices, strict=True):
            assert parameter.grad is not None
            view.grad = as_matrix(parameter.grad.contiguous(memory_format=_format(parameter)))
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of both optimizers.

        Args:
            state_dict: What `state_dict` returned.
        """
        self.muon.load_state_dict(state_dict["muon"])
        restore(self.adamw, state_dict["adamw"])


def _format(parameter: Tensor) -> torch.memory_format:
    return torch.channels_last if parameter.ndim == 4 else torch.contiguous_format


def inner_and_outer(unet: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the parameters of a U-Net.

    Args:
        unet: UNet2DConditionModel.

    Returns:
        The matrices and convolutions of its blocks, and all other parameters.
    """
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in unet.named_parameters():
        block = name.startswith(("down_blocks", "mid_block", "up_blocks"))
        (inner if block and parameter.ndim >= 2 else outer).append(parameter)
    return inner, outer
