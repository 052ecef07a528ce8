"""Every stage of the paper's preset on tensors that pretend to be on a GPU (tests/support/pretend_cuda.py).

The models are tiny and random. The stages that optimise are broken off in their third step and resume.
"""

import hashlib
import json
import shutil

import pytest
import torch
import yaml
from torch.utils.checkpoint import checkpoint

from prolific_core import cameras, seeding
from prolific_core.config import CameraConfig, FieldConfig, GuidanceConfig, NerfConfig, ScoreConfig
from prolific_core.config_layers import merge
from prolific_core.guidance.base import build_guidance
from prolific_core.prior.kinds import load_prior
from prolific_core.scenes.radiance_field import RadianceField
from tasks.runtime import stage
from tasks.runtime.job import Job
from tasks.runtime.project import STAGES, Project
from tests.support import cuda_extensions, tiny_multi_view, tiny_pipeline, tiny_xl
from tests.support.pretend_cuda import DeviceMixed, PretendCuda, pretend_cuda

ID = "a-red-mug"
GUIDED = ("nerf", "geometry", "texture")
SMALLER = {
    "initialise": {"preview_resolution": 16, "field": {"levels": 6, "log2_entries": 12, "samples_per_ray": 48}},
    "nerf": {"steps": 6, "resolution": [[0.0, 32]], "patch": 256, "random_background_after": 2},
    "geometry": {"steps": 4, "resolution": [[0.0, 32]], "grid_resolution": 24},
    "texture": {"steps": 4, "resolution": [[0.0, 32]]},
    "export": {"faces": 1000, "texture_size": 64},
    "evaluate": {"views": 2, "turntable_frames": 2, "resolution": 32},
}
#: Highest number of times that the host waits for the GPU in a step of `nerf` that records its metrics: for the number
#: of samples, the rows of the patches, the loss of the particle, that of the score network, and the metrics.
WAITS = 5


class BrokenOff(Exception):
    pass


def make_project(root, dtype: str, models=tiny_pipeline) -> Project:
    """Make a project with the paper's preset. `models` is the module that makes the tiny random models."""
    (root / "presets").mkdir()
    (root / "prompts" / ID).mkdir(parents=True)
    source = Project.find().root
    shutil.copy(source / "params.yaml", root)
    preset = yaml.safe_load((source / "presets" / "paper.yaml").read_text())
    prior = models.make(root / "sd-base")
    base = models.make(root / "sd-v", prediction="v_prediction", seed=1)
    preset["prior"] |= {"path": str(prior), "dtype": dtype}
    for name in ("nerf", "texture"):
        preset[name]["guidance"]["score"]["base"] = str(base)
    preset["evaluate"]["scorer"] = str(prior / "scorer")
    preset = merge(preset, SMALLER)
    (root / "presets" / "paper.yaml").write_text(yaml.safe_dump(preset))
    logging = {"preview_every": 1000, "checkpoint_every": 2, "turntable_frames": 2}
    prompt = {"id": ID, "text": "a red mug", "seed": 0, "preset": "paper", "logging": logging}
    (root / "prompts" / ID / "prompt.yaml").write_text(yaml.safe_dump(prompt))
    return Project(root)


def run_stages(
    project: Project, monkeypatch, *, break_off: bool, extensions: tuple[str, ...] = ()
) -> tuple[dict[str, int], dict[str, int]]:
    """Run all stages and return the waits and uploads of the last step of `nerf` by place.

    Neither a checkpoint nor a preview comes between the last two steps.

    The stages in `extensions` use substitutes for the optional CUDA backends.
    """
    broken, seen = set(), []
    progress = Job.progress

    def observed(self, step, steps, **metrics):
        if break_off and self.name in GUIDED and self.name not in broken and step == 3:
            broken.add(self.name)
            raise BrokenOff
        progress(self, step, steps, **metrics)
        if self.name == "nerf":
            seen.append((cuda.waits.copy(), cuda.uploads.copy()))

    monkeypatch.setattr(Job, "progress", observed)
    with pretend_cuda(monkeypatch) as cuda:
        for name in STAGES:
            with pytest.MonkeyPatch.context() as patch:
                if name in extensions:
                    cuda_extensions.install(patch)
                try:
                    stage.run(project, name, ID)
                except BrokenOff:
                    stage.run(project, name, ID)
    assert broken == (set(GUIDED) if break_off else set())
    return tuple(dict(last - before) for before, last in zip(*seen[-2:], strict=True))


def digests(project: Project) -> dict[str, str]:
    folder = project.root / "runs"
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in (".safetensors", ".glb"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_papers_preset_runs_on_a_pretended_gpu(tmp_path, monkeypatch):
    project = make_project(tmp_path, "float16")
    waits, uploads = run_stages(project, monkeypatch, break_off=True, extensions=("export", "evaluate"))
    assert sum(waits.values()) <= WAITS, waits
    assert sum(uploads.values()) <= 12, uploads
    metrics = json.loads((project.output(ID, "evaluate") / "metrics.json").read_text())
    assert -1 <= metrics["alignment"] <= 1


def test_a_backward_pass_sees_the_device_of_the_forward_pass():
    devices = []

    def square(x):
        devices.append(x.device.type)
        return x * x

    with PretendCuda():
        x = torch.ones(3, device="cuda", requires_grad=True)
        for run in (torch.Tensor.backward, torch.autograd.backward, lambda loss: torch.autograd.grad(loss, x)):
            run(checkpoint(square, x, use_reentrant=False).sum())
    assert devices == ["cuda"] * 6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_resumed_run_equals_a_whole_one(tmp_path_factory, dtype):
    found = []
    for break_off in (False, True):
        with pytest.MonkeyPatch.context() as monkeypatch:
            project = make_project(tmp_path_factory.mktemp("project"), dtype)
            waits, _ = run_stages(project, monkeypatch, break_off=break_off)
            assert sum(waits.values()) <= WAITS, waits
            found.append(digests(project))
    assert found[0] == found[1] and len(found[0]) > 4


@pytest.mark.slow
def test_every_stage_runs_with_the_optional_cuda_backends(tmp_path, monkeypatch):
    run_stages(make_project(tmp_path, "bfloat16"), monkeypatch, break_off=False, extensions=tuple(STAGES))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_stage_runs_with_stable_diffusion_xl(tmp_path, monkeypatch, dtype):
    waits, _ = run_stages(make_project(tmp_path, dtype, tiny_xl), monkeypatch, break_off=True)
    assert sum(waits.values()) <= WAITS, waits


@pytest.mark.slow
def test_every_stage_runs_with_a_multi_view_model(tmp_path, monkeypatch):
    project = make_project(tmp_path, "bfloat16", tiny_multi_view)
    four = "{views: 4, cameras: {orbit: true}}"
    (tmp_path / "presets" / "four.yaml").write_text(
        "extends: paper\n" + "".join(f"{name}: {four}\n" for name in GUIDED)
    )
    prompt = tmp_path / "prompts" / ID / "prompt.yaml"
    prompt.write_text(prompt.read_text().replace("preset: paper", "preset: four"))
    waits, _ = run_stages(project, monkeypatch, break_off=True)
    assert sum(waits.values()) <= WAITS, waits


@pytest.mark.slow
def test_every_stage_runs_with_stable_diffusion_xl_on_the_cpu(tmp_path):
    project = make_project(tmp_path, "float32", tiny_xl)
    (tmp_path / "presets" / "cpu.yaml").write_text("extends: paper\nsystem: {device: cpu}\n")
    prompt = tmp_path / "prompts" / ID / "prompt.yaml"
    prompt.write_text(prompt.read_text().replace("preset: paper", "preset: cpu"))
    for name in STAGES:
        stage.run(project, name, ID)
    assert (project.output(ID, "export") / "mesh.glb").stat().st_size > 1000


@pytest.fixture(params=[tiny_pipeline, tiny_xl, tiny_multi_view], ids=["sd", "xl", "multi-view"])
def models(request):
    return request.param


def test_the_networks_of_every_kind_run_on_a_pretended_gpu(cuda, tmp_path, models):
    prior = load_prior(str(models.make(tmp_path)), device="cuda", dtype="bfloat16")
    score = ScoreConfig(targets="all")
    guide = build_guidance(prior, GuidanceConfig(score=score), "a red mug", generator=seeding.generator(0, "score"))
    views = cameras.sample(4, CameraConfig(orbit=True), seeding.generator(0, "cameras")).to("cuda")
    images = torch.full((4, 3, 32, 32), 0.5, device="cuda", requires_grad=True)
    latents = prior.encode(images)
    guide.loss(latents, views, 0.0, seeding.generator(0, "loss")).backward()
    before = cuda.waits.copy()
    metrics = guide.train_score_network(latents, views, lambda purpose: seeding.generator(0, purpose))
    assert metrics["score_loss"] > 0 and images.grad.is_cuda
    assert sum((cuda.waits - before).values()) == 1, cuda.waits - before


@pytest.fixture
def cuda(monkeypatch):
    with pretend_cuda(monkeypatch) as mode:
        yield mode


def test_a_camera_left_on_the_cpu_is_noticed(cuda):
    shape = FieldConfig(
        levels=2, log2_entries=8, base_resolution=4, max_resolution=8, hidden_width=8, samples_per_ray=16
    )
    field = RadianceField(shape, seeding.generator(0, "field"), train_config=NerfConfig()).to("cuda")
    views = cameras.orbit(1, elevation=15, distance=1.4, fov=45)
    rgb = field.render(views.to("cuda"), 8, seeding.generator(0, "render")).rgb
    assert rgb.device == torch.device("cuda", 0)
    with pytest.raises(DeviceMixed, match="on the CPU"):
        field.render(views, 8, seeding.generator(0, "render"))


def test_the_mode_rejects_what_cuda_rejects_and_counts_waits(cuda: PretendCuda):
    x, y = torch.arange(3.0, device="cuda", requires_grad=True), torch.ones(3)
    (x * y.to("cuda") * torch.tensor(2.0)).sum().backward()
    assert x.grad.is_cuda and x.grad.tolist() == [2, 2, 2]
    assert [kind for kind, _ in cuda.waits] == ["upload", "tolist"] and sum(cuda.uploads.values()) == 1
    place = next(iter(cuda.waits))[1]
    assert place.startswith("tests/gpu/test_pretended_gpu.py:")
    wrong = [
        lambda: x + y,
        lambda: y[x.long()],
        lambda: x.detach().numpy(),
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda: torch.rand(3, generator=seeding.on_device(torch.Generator(), x.device)),
        lambda: torch.cat([x, y]),
    ]
    for work in wrong:
        with pytest.raises(DeviceMixed):
            work()
    before = cuda.waits.total()
    y.to("cuda", non_blocking=True), x.max(), len(x), x[1:], x.isfinite().all()
    assert cuda.waits.total() == before
    int(x[0]), x[x > 1], (x > 1).nonzero(), x.to("cpu"), x.unique()
    assert cuda.waits.total() == before + 5
