"""Bootstrap intervals: their coverage of a known mean, and their dependence on the structure of the runs."""

import numpy as np
import torch

from prolific_core.metrics.diversity import vendi_score
from prolific_core.metrics.intervals import interval


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    random, hits = np.random.default_rng(0), 0
    for k in range(60):
        prompts = random.normal(size=(12, 1))  # a deviation of 1 between prompts, and of 0.5 between seeds
        found = interval(prompts + 0.5 * random.normal(size=(12, 3)), seed=k)
        assert found.low < found.mean < found.high
        hits += found.low <= 0 <= found.high
    assert 0.85 <= hits / 60 <= 1.0


def test_runs_of_the_same_prompt_are_not_independent():
    """Three equal seeds of a prompt say no more than one."""
    prompts = np.random.default_rng(1).normal(size=(8, 1))
    one, three = interval(prompts), interval(np.repeat(prompts, 3, axis=1))
    assert abs((three.high - three.low) / (one.high - one.low) - 1) < 0.1


def test_small_inputs():
    single = interval(np.array([[2.0]]))
    assert (single.mean, single.low, single.high) == (2.0, 2.0, 2.0) and single.excludes_zero
    seeds = interval(np.array([[1.0, 2.0, 3.0, 4.0]]))
    assert seeds.mean == 2.5 and 1.0 <= seeds.low < 2.0 and 3.0 < seeds.high <= 4.0
    assert not interval(np.array([[-1.0, 1.0], [1.0, -1.0]])).excludes_zero


def test_the_interval_of_a_single_prompt_is_that_of_the_mean_of_its_seeds():
    seeds = np.random.default_rng(3).normal(size=(1, 50))
    found = interval(seeds)
    assert abs((found.high - found.low) / (2 * 1.96 * seeds.std() / 50**0.5) - 1) < 0.1


def test_an_interval_is_repeatable():
    values = np.random.default_rng(2).normal(size=(3, 3))
    assert interval(values) == interval(values) != interval(values, seed=1)


def test_the_vendi_score_counts_different_rows():
    assert abs(vendi_score(torch.eye(5)) - 5) < 1e-6
    assert abs(vendi_score(torch.ones(5, 3)) - 1) < 1e-6
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert abs(vendi_score(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])) - np.exp(entropy)) < 1e-6
