"""The training loop: averages, schedules, and a training that is extended after its end."""

import pytest
import torch

from prolific_core.errors import InputError
from prolific_core.toybox.training import loop


def training(steps: int, fall: int):
    torch.manual_seed(0)
    model, average = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

    def loss(step: int):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (model(x) - x[:, :2]).square().mean()

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    return loop.Training(model, optimizer, loss, loop.hold_and_fall(0.1, steps, 2, fall), average=average)


def trained(steps: int, fall: int, state) -> dict:
    run = training(steps, fall)
    loop.run(run, steps=steps, state=state, fall=fall, checkpoint_every=3)
    return run.average.state_dict()


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_training_that_is_extended_ends_in_the_bytes_of_a_longer_one(tmp_path):
    short = trained(10, 4, tmp_path / "state.safetensors")
    extended = trained(20, 5, tmp_path / "state.safetensors")
    assert same(extended, trained(20, 5, tmp_path / "whole.safetensors")) and not same(extended, short)
    assert same(extended, trained(20, 5, tmp_path / "state.safetensors"))  # nothing is left to do
    again = trained(30, 7, tmp_path / "state.safetensors")  # and once more
    assert same(again, trained(30, 7, tmp_path / "other.safetensors"))


def test_a_training_cannot_end_before_what_is_done(tmp_path):
    trained(20, 5, tmp_path / "state.safetensors")
    with pytest.raises(InputError, match="15 steps at the full learning rate"):
        trained(10, 4, tmp_path / "state.safetensors")


def test_steps_can_be_lowered_while_the_rate_is_held(tmp_path):
    state = tmp_path / "state.safetensors"
    run = training(20, 5)
    loop.run(run, steps=9, state=state, checkpoint_every=3)  # as if it had been killed after nine steps
    with pytest.raises(InputError, match="9 steps at the full learning rate"):
        trained(10, 4, state)
    assert same(trained(15, 5, state), trained(15, 5, tmp_path / "whole.safetensors"))


def test_the_rate_is_held_and_falls():
    rate = loop.hold_and_fall(1.0, 100, 10, 20)
    assert rate(0) == 0.1 and rate(50) == rate(80) == 1.0 and rate(90) == 0.5 and rate(100) == 0.0


def test_the_average_weighs_steps_by_a_power():
    run = training(5, 1)
    run.power, seen = 2.0, []
    for step in range(5):
        run.step(step)
        seen.append(run.model.weight.detach().clone())
    decays = [(step / (step + 1)) ** 3 for step in range(5)]
    expected = torch.zeros_like(seen[0])
    for weight, decay in zip(seen, decays, strict=True):
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(run.average.weight, expected)
    powers = torch.tensor([(k + 1.0) ** 2 for k in range(5)])  # asymptotically, (t / sum of t)^power
    assert (expected - sum(w * p for w, p in zip(seen, powers / powers.sum(), strict=True))).abs().max() < 0.05
