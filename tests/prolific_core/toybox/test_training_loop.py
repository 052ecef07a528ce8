"""The training loop: averages, schedules, resuming, and a training that is extended after its end."""

import pytest
import torch

from prolific_core.errors import InputError
from prolific_core.toybox.training import loop
from prolific_core.toybox.training.muon import MuonAdamW


def training(steps: int, decay: int, muon: bool = False):
    torch.manual_seed(0)
    model, average = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU(), torch.nn.Conv2d(4, 2, 3)) for _ in range(2)
    )
    model.to(memory_format=torch.channels_last)

    def loss(step: int):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        return (model(x.contiguous(memory_format=torch.channels_last)) - x[:, :2, :4, :4]).square().mean()

    if muon:
        optimizer = MuonAdamW([model[2].weight], [*model[0].parameters(), model[2].bias], lr=0.1)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    return loop.Training(model, optimizer, loss, loop.warm_up_stable_decay(0.1, steps, 2, decay), average=average)


def trained(steps: int, decay: int, state, muon: bool = False, **more) -> dict:
    run = training(steps, decay, muon)
    loop.run(run, steps=steps, state=state, decay=decay, checkpoint_every=3, **more)
    return run.average.state_dict()


def killed(steps: int, decay: int, state, after: int, muon: bool = False) -> None:
    """Run until the last checkpoint before the given number of steps, and stop."""

    def stop(step: int) -> dict:
        if step == after:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        trained(steps, decay, state, muon, evaluate=stop, evaluate_every=1)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("after", [4, 11, 15, 16, 19])
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, after, muon):
    state = tmp_path / "state.safetensors"
    killed(20, 5, state, after, muon)
    assert same(trained(20, 5, state, muon), trained(20, 5, tmp_path / "whole.safetensors", muon))


def test_muon_steps_are_orthogonal_and_have_the_size_of_adamws():
    """After one step from zero momentum, the change of a matrix has equal singular values."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(6, 4, 3).to(memory_format=torch.channels_last)
    before = convolution.weight.detach().clone()
    optimizer = MuonAdamW([convolution.weight], [convolution.bias], lr=0.01, ratio=3.0, weight_decay=0.0)
    convolution(torch.randn(2, 6, 8, 8)).square().mean().backward()
    optimizer.step()
    change = (convolution.weight.detach() - before).permute(0, 2, 3, 1).flatten(1)
    sizes = torch.linalg.svdvals(change)
    assert sizes.max() < 2 * sizes.min()  # five steps of Newton and Schulz bring them between 0.7 and 1.2
    assert 0.5 < change.square().mean().sqrt() / (0.2 * 0.03) < 1.5  # AdamW's steps have an rms of 0.2 to 0.4 lr


def test_a_training_that_is_extended_ends_in_the_bytes_of_a_longer_one(tmp_path):
    state = tmp_path / "state.safetensors"
    short = trained(10, 4, state)
    extended = trained(20, 5, state)
    assert same(extended, trained(20, 5, tmp_path / "whole.safetensors")) and not same(extended, short)
    assert same(extended, trained(20, 5, state))  # nothing is left to do
    state.unlink()  # as after the end of a stage, which keeps only the other checkpoint
    assert same(extended, trained(20, 5, state))
    again = trained(30, 7, state)  # and once more
    assert same(again, trained(30, 7, tmp_path / "other.safetensors"))


@pytest.mark.parametrize(("steps", "decay"), [(22, 7), (20, 5), (18, 3)])  # the decay begins at the same step
def test_a_checkpoint_from_the_decay_of_another_schedule_is_not_used(tmp_path, steps, decay):
    state = tmp_path / "state.safetensors"
    killed(20, 5, state, 19)
    assert same(trained(steps, decay, state), trained(steps, decay, tmp_path / "whole.safetensors"))


@pytest.mark.parametrize(("steps", "decay"), [(3, 8), (13, 4)])
def test_a_decay_from_the_first_step_or_from_a_checkpoint_can_be_killed(tmp_path, steps, decay):
    state = tmp_path / "state.safetensors"
    if steps > decay:
        killed(50, 5, state, 9)
    killed(steps, decay, state, steps - 1)
    assert same(trained(steps, decay, state), trained(steps, decay, tmp_path / "whole.safetensors"))
    assert same(trained(30, 5, state), trained(30, 5, tmp_path / "longer.safetensors"))


def test_a_training_cannot_end_before_what_is_done(tmp_path):
    trained(20, 5, tmp_path / "state.safetensors")
    with pytest.raises(InputError, match="15 steps at the full learning rate"):
        trained(10, 4, tmp_path / "state.safetensors")


def test_steps_can_be_lowered_before_the_decay(tmp_path):
    state = tmp_path / "state.safetensors"
    killed(20, 5, state, 10)
    with pytest.raises(InputError, match="9 steps at the full learning rate.* at least 13"):
        trained(10, 4, state)
    assert same(trained(15, 5, state), trained(15, 5, tmp_path / "whole.safetensors"))


def test_the_rate_is_held_and_decays():
    rate = loop.warm_up_stable_decay(1.0, 100, 10, 20)
    assert rate(0) == 0.1 and rate(50) == rate(80) == 1.0 and rate(90) == 0.5 and rate(100) == 0.0
    rate = loop.warm_up_and_decay(1.0, 100, 10)
    assert rate(0) == 0.1 and rate(9) == rate(10) == 1.0 and rate(55) == 0.5 and rate(100) == 0.0


def test_the_average_weighs_steps_by_a_power():
    run = training(5, 1)
    run.power, seen = 2.0, []
    for step in range(5):
        run.step(step)
        seen.append(run.model[0].weight.detach().clone())
    decays = [(step / (step + 1)) ** 3 for step in range(5)]
    expected = torch.zeros_like(seen[0])
    for weight, decay in zip(seen, decays, strict=True):
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(run.average[0].weight, expected, atol=1e-6)
    powers = torch.tensor([(k + 1.0) ** 2 for k in range(5)])  # asymptotically, (t / sum of t)^power
    assert (expected - sum(w * p for w, p in zip(seen, powers / powers.sum(), strict=True))).abs().max() < 0.1
