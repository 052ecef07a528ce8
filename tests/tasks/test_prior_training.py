"""Training of a prior: it is a DVC pipeline, resumes from its last step, and gives a model like any other."""

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tasks.runtime.imports import imported_modules, module_file
from tests.conftest import ROOT, Clone, copy_project
from tests.support.imports import function_imports

TINY = {
    "render": {"images": 48, "heldout": 16, "shard": 16},
    "autoencoder": {"steps": 4, "batch": 4, "linear_steps": 2},
    "diffusion": {
        "steps": 30,
        "batch": 4,
        "decay": 10,
        "channels": [16, 16, 32],
        "warmup": 2,
        "sample_every": 20,
    },
    "text": {"steps": 4, "batch": 4, "width": 16, "layers": 1},
    "scorer": {"steps": 4, "batch": 8, "width": 16, "layers": 1},
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
    """All seven stages, by DVC alone."""
    done = clone.run("tasks.dvc_pipeline.cli", "repro", "priors/tiny/dvc.yaml", PROLIFIC_TRACKER="off")
    assert done.returncode == 0, done.stdout + done.stderr
    return clone


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_dependencies_of_every_stage_exist():
    from tasks.prior_training.specs import STAGES

    for spec in STAGES.values():
        assert all((ROOT / path).exists() for path in spec.dependencies)


# Modules that report, find files or check parameters: no result depends on them.
NO_RESULT = {
    "prolific_core.config_layers",
    "prolific_core.discovery",
    "prolific_core.errors",
    "prolific_core.prompts",
    "prolific_core.visualisation",
    "tasks.prior_training.runs",
    "tasks.prior_training.specs",
    "tasks.runtime.console",
    "tasks.runtime.curve",  # only of the stages of a prompt
    "tasks.runtime.locks",
    "tasks.runtime.project",
    "tasks.runtime.records",
    "tasks.runtime.unrecorded",
    "tasks.runtime.revision",
    "tasks.runtime.usage",
    "tasks.tracking.prompt_runs",
}


@pytest.mark.parametrize("stage", ["render", "autoencoder", "text", "diffusion", "scorer", "classifier", "model"])
def test_the_code_of_a_stage_is_what_it_imports(stage):
    from tasks.prior_training.specs import STAGES

    listed = STAGES[stage].dependencies
    imported = {"tasks.prior_training.stages"}
    for module in function_imports("tasks.prior_training.stages", stage, ROOT):
        imported |= imported_modules(module, ROOT, without=NO_RESULT)
    files = {module_file(module, ROOT).relative_to(ROOT).as_posix() for module in imported}
    files = {file for file in files if not file.endswith("__init__.py")}

    def covers(path: str, file: str) -> bool:
        return file == path or file.startswith(f"{path}/")

    assert not {file for file in files if not any(covers(path, file) for path in listed)}
    assert not {path for path in STAGES[stage].code if not any(covers(path, file) for file in files)}


def test_every_stage_has_a_body():
    from tasks.prior_training import stages
    from tasks.prior_training.specs import STAGES

    assert all(callable(getattr(stages, name)) for name in STAGES)


def test_the_committed_numbers_are_known():
    from tasks.prior_training.runs import PriorRuns
    from tasks.runtime.project import Project

    config = PriorRuns(Project(ROOT), "toybox").config
    assert config.diffusion.channels == [64, 96, 160] and config.render.mix.normals == 0.2


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
        "loop.run.__kwdefaults__['checkpoint_every'] = 1\n"
        "from tasks.prior_training.__main__ import main\nsys.exit(main(sys.argv[1:]))"
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


@pytest.mark.slow
def test_a_finished_training_is_extended(trained, tmp_path):
    """With more steps, it continues where the rate began to fall, and ends in the bytes of a single longer run."""
    weights = []
    for name, continues in (("extended", True), ("whole", False)):
        root = tmp_path / name
        shutil.copytree(trained.root, root, symlinks=True)
        if not continues:
            shutil.rmtree(root / ".state/priors/tiny/diffusion/checkpoints")
        params = root / "priors/tiny/params.yaml"
        params.write_text(yaml.safe_dump({**TINY, "system": {}, "diffusion": {**TINY["diffusion"], "steps": 36}}))
        done = Clone(root).run("tasks.prior_training", "diffusion", "tiny", PROLIFIC_TRACKER="off")
        assert done.returncode == 0, done.stderr
        weights.append(sha(root / "priors/tiny/diffusion/unet/diffusion_pytorch_model.safetensors"))
    assert weights[0] == weights[1]
    assert weights[0] != sha(trained.root / "priors/tiny/diffusion/unet/diffusion_pytorch_model.safetensors")


def test_nothing_of_this_machine_is_published(trained):
    for path in (trained.root / "priors/tiny/model").rglob("*.json"):
        assert str(trained.root) not in path.read_text() and "_name_or_path" not in path.read_text(), path


def test_a_checkpoint_outlives_changes_of_code_but_not_of_what_is_learned(trained, tmp_path, monkeypatch):
    from tasks.prior_training import specs
    from tasks.prior_training.job import PriorStage
    from tasks.runtime.project import Project

    root = tmp_path / "clone"
    shutil.copytree(trained.root, root, symlinks=True)

    def key(stage: str) -> str:
        return PriorStage(Project(root), stage, "tiny").key

    keys = {stage: key(stage) for stage in specs.STAGES}
    checkpoint = PriorStage(Project(root), "scorer", "tiny").checkpoint
    (checkpoint / "state.safetensors").write_bytes(b"half a training")
    for stage, spec in specs.STAGES.items():  # the files have other names, and other contents
        changed = dataclasses.replace(spec, code=("tasks/prior_training/specs.py",))
        monkeypatch.setitem(specs.STAGES, stage, changed)
    loop = root / "prolific_core/toybox/training/loop.py"
    loop.write_text(loop.read_text() + "\n# A comment.\n")
    assert {stage: key(stage) for stage in specs.STAGES} == keys
    again = PriorStage(Project(root), "scorer", "tiny").checkpoint
    assert again == checkpoint and (again / "state.safetensors").read_bytes() == b"half a training"

    vocabulary = root / "prolific_core/toybox/vocabulary/vocab.json"
    vocabulary.write_text(vocabulary.read_text() + "\n")
    assert {stage for stage in keys if key(stage) != keys[stage]} == {"text", "diffusion", "scorer", "model"}
    params = root / "priors/tiny/params.yaml"
    params.write_text(yaml.safe_dump({**TINY, "system": {}, "classifier": {**TINY["classifier"], "steps": 41}}))
    assert key("classifier") != keys["classifier"] and key("autoencoder") == keys["autoencoder"]
    manifest = root / "priors/tiny/render/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert key("autoencoder") != keys["autoencoder"]


def test_dvc_commit_accepts_a_moved_module_and_a_comment(trained, tmp_path):
    root = tmp_path / "clone"
    shutil.copytree(trained.root, root, symlinks=True)
    clone = Clone(root)

    def dvc(*command: str) -> str:
        done = clone.run("tasks.dvc_pipeline.cli", *command, PROLIFIC_TRACKER="off")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    stages = root / "tasks/prior_training/stages.py"
    stages.write_text(stages.read_text() + "\n# A comment.\n")
    training = root / "prolific_core/toybox/training"
    (training / "loop.py").rename(training / "steps.py")
    for path in (*training.glob("*.py"), root / "tasks/prior_training/specs.py"):
        text = path.read_text().replace("toybox.training.loop", "toybox.training.steps")
        path.write_text(text.replace("toybox/training/loop.py", "toybox/training/steps.py"))
    refresh = "from tasks.prior_training import pipeline, job; pipeline.refresh(job.Project.find(), 'tiny')"
    subprocess.run([sys.executable, "-c", refresh], cwd=root, check=True)
    changed = json.loads(dvc("status", "--json", "priors/tiny/dvc.yaml"))
    assert len(changed) == 7
    dvc("commit", "--force", "priors/tiny/dvc.yaml")
    assert json.loads(dvc("status", "--json", "priors/tiny/dvc.yaml")) == {}
    written = {path: path.stat().st_mtime_ns for path in (root / "priors/tiny").glob("*/manifest.json")}
    dvc("repro", "priors/tiny/dvc.yaml")
    assert {path: path.stat().st_mtime_ns for path in (root / "priors/tiny").glob("*/manifest.json")} == written
    assert len(written) == 7


def test_the_model_card_names_the_revision_that_trained_each_part(trained, tmp_path):
    parts = ("autoencoder", "text", "diffusion", "scorer", "classifier")
    card = (trained.root / "priors/tiny/model/MODEL_CARD.md").read_text()
    assert all(f"| {part} | unknown |" in card for part in parts)  # the copy of the project has no history
    root = tmp_path / "clone"
    shutil.copytree(trained.root, root, symlinks=True)
    records = root / ".state/priors/tiny/diffusion/records.jsonl"
    start, *rest = records.read_text().splitlines()
    records.write_text("\n".join([json.dumps({**json.loads(start), "revision": "14eb0a3c2d11"}), *rest]) + "\n")
    done = Clone(root).run("tasks.prior_training", "model", "tiny", PROLIFIC_TRACKER="off")
    assert done.returncode == 0, done.stderr
    card = (root / "priors/tiny/model/MODEL_CARD.md").read_text()
    assert "| diffusion | 14eb0a3c2d11 |" in card and "| scorer | unknown |" in card


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
