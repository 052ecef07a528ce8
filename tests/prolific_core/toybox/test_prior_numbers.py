"""Parameters that no model can be built from are reported before hours of work, and renders survive any kill."""

import pytest
import yaml

from prolific_core.errors import InputError
from tests.conftest import copy_project


def prior(root, numbers: dict):
    from tasks.prior_training.runs import PriorRuns
    from tasks.runtime.project import Project

    folder = root / "priors" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(numbers))
    return PriorRuns(Project(root), "mine")


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"autoencoder": {"latent": 13}}, "autoencoder.latent"),  # the linear start has three latents a norm group
        ({"autoencoder": {"channels": [32, 64, 64]}}, "unknown key 'autoencoder.channels'"),
        ({"diffusion": {"channels": [20, 40, 60]}}, "diffusion.channels"),
        ({"diffusion": {"channels": [32, 64]}}, "diffusion.channels"),
        ({"text": {"width": 100, "heads": 3}}, "width"),
        ({"scorer": {"width": 100, "heads": 3}}, "width"),
        ({"classifier": {"channels": [8, 8, 8]}}, "classifier.channels"),
        ({"render": {"mix": {"colour": 0, "normals": 0, "pair": 0, "room": 0}}}, "mix"),
        ({"diffusion": {"initial": "priors/nowhere/model"}}, "diffusion.initial"),
        ({"autoencoder": {"initial": "priors"}}, "autoencoder.initial"),  # a folder, but not of a model
    ],
)
def test_unusable_numbers_are_named_at_once(tmp_path, numbers, named):
    with pytest.raises(InputError) as error:
        prior(tmp_path, numbers).config  # noqa: B018
    assert named in str(error.value) and "priors/mine/params.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_published_model_is_found_from_the_project_wherever_one_is(tmp_path, monkeypatch):
    (tmp_path / "models" / "first").mkdir(parents=True)
    (tmp_path / "models" / "first" / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "models")
    assert prior(tmp_path, {"scorer": {"initial": "models/first"}}).config.scorer.initial == "models/first"


def test_renders_outlive_a_failure_after_the_last_of_them(tmp_path, monkeypatch):
    """Putting gigabytes in place takes a while, and an interruption then must not lose the renders."""
    from tasks.prior_training import stages
    from tasks.prior_training.job import PriorStage
    from tasks.runtime.project import Project

    root = copy_project(tmp_path / "clone")
    prior(root, {"render": {"images": 4, "heldout": 2, "shard": 4}})
    job = PriorStage(Project(root), "render", "mine")

    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        job.run(stages.render)
    written = {path.name: path.stat().st_mtime_ns for path in (job.checkpoint / "shards").iterdir()}
    assert set(written) == {f"{split}-0000.{kind}" for split in ("train", "heldout") for kind in ("npy", "json")}
    again = PriorStage(Project(root), "render", "mine")
    again.run(stages.render)
    assert {name: (again.final / name).stat().st_mtime_ns for name in written} == written
    assert not again.checkpoint.joinpath("shards").exists(), "the renders would be kept twice"
