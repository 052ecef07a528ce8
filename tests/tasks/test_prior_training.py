"""A prior of one's own: its training is a DVC pipeline, resumes to the step, and its model is one like any other."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.conftest import ROOT, Clone, copy_project

TINY = {
    "render": {"images": 48, "heldout": 16, "shard": 16},
    "autoencoder": {"steps": 4, "batch": 4, "linear_steps": 2},
    "diffusion": {
        "steps": 30,
        "batch": 4,
        "channels": [16, 16, 32],
        "text_width": 16,
        "text_layers": 1,
        "warmup": 2,
        "sample_every": 20,
    },
    "scorer": {"steps": 4, "batch": 8, "width": 16, "vision_layers": 1, "text_layers": 1},
    "classifier": {"steps": 40, "batch": 8, "channels": [4, 8, 8, 8]},
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    root = copy_project(tmp_path_factory.mktemp("prior") / "a clone")
    (root / "priors" / "tiny").mkdir(parents=True)
    (root / "priors" / "tiny" / "params.yaml").write_text(yaml.safe_dump(TINY))
    from tasks.prior_training import pipeline
    from tasks.runtime.project import Project

    pipeline.refresh(Project(root), "tiny")
    return Clone(root)


@pytest.fixture(scope="module")
def trained(clone) -> Clone:
    """All six stages, by DVC alone."""
    done = clone.run("tasks.dvc_pipeline.cli", "repro", "priors/tiny/dvc.yaml", PROLIFIC_TRACKER="off")
    assert done.returncode == 0, done.stdout + done.stderr
    return clone


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_committed_pipeline_is_what_the_stages_say():
    from tasks.prior_training.pipeline import pipeline
    from tasks.prior_training.specs import STAGES

    assert (ROOT / "priors/toybox/dvc.yaml").read_text() == pipeline("toybox")
    for spec in STAGES.values():
        assert all((ROOT / path).exists() for path in spec.dependencies)


def test_the_committed_numbers_are_known():
    from tasks.prior_training.runs import PriorRuns
    from tasks.runtime.project import Project

    config = PriorRuns(Project(ROOT), "toybox").config
    assert config.diffusion.channels == [48, 80, 128] and config.render.mix.normals == 0.2


def test_the_model_loads_and_samples(trained):
    import torch

    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.prior.scorer import Scorer
    from prolific_core.toybox.evaluation.classifier import load_classifier

    folder = trained.root / "priors/tiny/model"
    prior = LatentDiffusion.load(str(folder))
    images = prior.sample(["a red mug"] * 2, steps=2, generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, 3, 64, 64) and images.std() > 0
    assert load_classifier(folder / "classifier").classify(images).features.shape == (2, 64)
    assert Scorer.load(None, str(folder)).similarity(images, ["a red mug"]).shape == (2, 1)


def test_nothing_runs_twice_and_a_number_reruns_what_reads_it(trained):
    status = json.loads(trained.run("tasks.dvc_pipeline.cli", "status", "--json", "priors/tiny/dvc.yaml").stdout)
    assert status == {}
    numbers = trained.root / "priors/tiny/params.yaml"
    before = numbers.read_text()
    assert "system: {}" in before  # what DVC asks for and TINY leaves out
    numbers.write_text(yaml.safe_dump({**TINY, "system": {}, "scorer": {**TINY["scorer"], "steps": 5}}))
    status = json.loads(trained.run("tasks.dvc_pipeline.cli", "status", "--json", "priors/tiny/dvc.yaml").stdout)
    numbers.write_text(before)
    assert [key.rsplit(":", 1)[1] for key in status] == ["scorer"]


@pytest.mark.parametrize(
    ("stage", "file"), [("diffusion", "unet/diffusion_pytorch_model.safetensors"), ("classifier", "model.safetensors")]
)
def test_a_killed_training_ends_in_the_same_bytes(trained, stage, file, tmp_path, monkeypatch):
    """Killed as soon as a checkpoint is there, started again: the weights of an uninterrupted run."""
    whole = sha(trained.root / "priors/tiny" / stage / file)
    root = tmp_path / "killed"
    shutil.copytree(trained.root, root, symlinks=True)
    shutil.rmtree(root / "priors/tiny" / stage)
    # A checkpoint at every step, instead of every 250.
    code = (
        "import sys\nfrom prolific_core.toybox.training import loop\n"
        "loop.run.__kwdefaults__['checkpoint_every'] = 1\nfrom tasks.prior_training.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, stage, "tiny"]
    state = root / ".state/priors/tiny" / stage / "checkpoints"
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(state.glob("*/state.safetensors")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (root / "priors/tiny" / stage).exists(), "it was killed too late to show anything"
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = (root / ".state/priors/tiny" / stage / "records.jsonl").read_text()
    assert records.count('"kind": "start"') == 2
    assert sha(root / "priors/tiny" / stage / file) == whole


def test_finished_shards_outlive_a_kill(trained, tmp_path):
    from prolific_core.toybox.params import RenderConfig
    from prolific_core.toybox.training import shards

    data = RenderConfig(images=40, heldout=2, shard=16)
    shards.render_shard(tmp_path, data, "train", 0, 16)
    written = (tmp_path / "train-0000.npy").stat().st_mtime_ns
    shards.render(tmp_path, data)
    assert (tmp_path / "train-0000.npy").stat().st_mtime_ns == written
    found = shards.Shards(tmp_path)
    assert [len(images) for images in found.images] == [16, 16, 8, 2]
    assert found.names == ["train-0000", "train-0001", "train-0002", "heldout-0000"]
    from prolific_core.toybox.world.draw import held_out

    assert all(held_out(label["family"], label["colour"]) for label in found.labels[3])


def test_mistakes_are_named(clone):
    for text, told in (
        ("render: {images: few}", "render.images"),
        ("diffusion: {lr: 1}", "unknown key 'diffusion.lr'"),
    ):
        folder = clone.root / "priors" / "wrong"
        folder.mkdir(exist_ok=True)
        (folder / "params.yaml").write_text(text)
        done = clone.prolific("prior", "train", "wrong")
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "priors/wrong/params.yaml" in done.stderr
    done = clone.prolific("prior", "train", "nowhere")
    assert done.returncode == 2 and "no prior 'nowhere'" in done.stderr
    assert clone.prolific("prior", "train", "../x").returncode == 2
