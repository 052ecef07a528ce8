"""What a run checks and sets for a GPU before it computes: device, driver, settings of torch, and models."""

import json
import threading
from types import SimpleNamespace

import pytest
import torch

from flows.orchestration import preflight
from prolific_core import config, config_layers
from prolific_core.errors import InputError, ProlificError
from prolific_core.prior import location
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.parts import data_type
from prolific_core.render import warp_launch
from tasks.runtime import gpus, machine
from tasks.runtime.project import Project
from tests.support import tiny_pipeline
from tests.support.by_formula import estimator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline.make(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def one_gpu(monkeypatch):
    """A machine on which torch finds one GPU, with the settings of torch restored afterwards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = benchmark
    machine.set_up_torch(1, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_required_gpu_that_is_missing_stops_before_anything_starts():
    for device in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match=f"^system.device is {device}, but torch .*--set system.device=cpu$"):
            machine.check_device(device)
    machine.check_device("cpu")
    machine.check_device("auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_preset_that_requires_a_gpu_is_refused_unless_the_prompt_says_cpu(tmp_path, folder):
    for name in ("presets", "prompts/a-red-mug"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "presets" / "paper.yaml").write_text(f"prior: {{path: {folder}}}\nsystem: {{device: cuda}}\n")
    prompt = tmp_path / "prompts" / "a-red-mug" / "prompt.yaml"
    prompt.write_text("id: a-red-mug\ntext: a red mug\nseed: 0\npreset: paper\n")
    project = Project(tmp_path)
    with pytest.raises(InputError, match="^system.device is cuda, but torch .* has no usable GPU"):
        preflight.check(project, "a-red-mug")
    assert preflight.choose(project, ["a-red-mug"]) == ["a-red-mug"]  # a worker on another machine may have one
    prompt.write_text(prompt.read_text() + "system: {device: cpu}\n")
    assert preflight.check(project, "a-red-mug").config.system.device == "cpu"


def test_a_gpu_is_chosen_by_number(one_gpu):
    assert machine.set_up_torch(1, "cuda:0") == torch.device("cuda", 0)
    assert machine.set_up_torch(1, "auto") == torch.device("cuda")
    with pytest.raises(InputError, match="system.device is cuda:1, but torch sees 1 GPUs, cuda:0 to cuda:0"):
        machine.set_up_torch(1, "cuda:1")
    for bad in ("gpu", "cuda:", "cuda:x", "cuda:0,1"):
        with pytest.raises(InputError, match="system.device"):
            config_layers.resolve(("params.yaml", {"system": {"device": bad}}))
    assert config_layers.resolve(("params.yaml", {"system": {"device": "cuda:1"}})).system.device == "cuda:1"


def test_a_gpu_is_fast_unless_determinism_is_requested(one_gpu):
    machine.set_up_torch(1, "cuda")
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    machine.set_up_torch(1, "cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    machine.set_up_torch(1, "cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize(
    ("toolkit", "driver", "expected"),
    [
        ((13, 4), (12, 4), "driver supports only CUDA 12.4; update the driver (R580 or later), or install a wheel"),
        ((13, 4), None, "is built for CUDA 13.4 and finds no NVIDIA driver; install one that supports CUDA 13"),
        (None, None, "is built without CUDA"),
    ],
)
def test_a_driver_that_is_too_old_for_warp_is_explained(monkeypatch, toolkit, driver, expected):
    wp = warp_launch.warp()
    monkeypatch.setattr(wp, "is_cuda_available", lambda: False)
    monkeypatch.setattr(wp, "get_cuda_toolkit_version", lambda: toolkit)
    monkeypatch.setattr(wp, "get_cuda_driver_version", lambda: driver)
    assert expected in warp_launch.gpu_obstacle()
    warp_launch._check_gpu.cache_clear()
    with pytest.raises(InputError, match="^system.device: torch uses the GPU, but the kernels cannot: warp-lang"):
        warp_launch.launch(None, 1, [], torch.device("cuda"))
    monkeypatch.setattr(wp, "is_cuda_available", lambda: True)
    assert warp_launch.gpu_obstacle() == ""


def values(**sections) -> config.Config:
    return config_layers.resolve(("preset", sections))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"prior": {"path": "./nowhere"}}, "prior.path"),
        ({"nerf": {"guidance": {"score": {"base": "./nowhere"}}}}, "nerf.guidance.score.base"),
        ({"texture": {"guidance": {"score": {"base": "./nowhere"}}}}, "texture.guidance.score.base"),
        ({"evaluate": {"scorer": "./nowhere"}}, "evaluate.scorer"),
    ],
)
def test_every_model_is_checked_at_the_start_by_its_own_key(sections, key):
    location.check_models(values())
    with pytest.raises(InputError, match=f"^{key}: no .*nowhere"):
        location.check_models(values(**sections))


def test_a_model_on_the_hub_is_looked_up_once(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    class Api:
        def model_info(self, id, timeout):
            asked.append((id, timeout))
            raise OSError("404 Client Error.\nRepository Not Found")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(
        InputError, match=r"^texture.guidance.score.base: cannot find owner/gone .*404 Client Error.*copy$"
    ):
        location.check_models(values(texture={"guidance": {"score": {"base": "owner/gone"}}}))
    assert asked == [("owner/gone", 10)]
    kept = tmp_path / "model_index.json"
    kept.write_text(json.dumps({"_class_name": "FluxPipeline", "transformer": ["diffusers", "x"]}))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda id, file: str(kept))
    with pytest.raises(InputError, match="^prior.path: owner/flow is a FluxPipeline; supported are"):
        location.check_models(values(prior={"path": "owner/flow"}))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            {"_class_name": "SomeXLPipeline", "text_encoder": [None, None], "text_encoder_2": ["x", "x"]},
            "SomeXLPipeline",
        ),
        ({"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "x"]}, "StableDiffusion3Pipeline"),
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "x"], "unet": [None, None]}, "FluxPipeline"),
        ({"_class_name": "KandinskyPipeline", "unet": ["diffusers", "UNet3DConditionModel"]}, "KandinskyPipeline"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_line(tmp_path, folder, change, shown):
    index = json.loads((folder / "model_index.json").read_text()) | change
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"^prior.path: {tmp_path} is a {shown}.*; supported are Stable Diffusion 1.x"):
        location.check_models(values(prior={"path": str(tmp_path)}))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match="model_index.json is damaged"):
        location.locate(str(tmp_path))


def test_a_folder_with_only_the_half_precision_variant_loads(tmp_path, folder):
    expected = LatentDiffusion.load(str(folder), dtype="float16")
    copy = tiny_pipeline.make(tmp_path / "prior", dtype=torch.float16)
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (copy / part).glob("*.safetensors")
        file.rename(file.with_suffix(".fp16.safetensors"))
    loaded = LatentDiffusion.load(str(copy), dtype="float16")
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def single_file(path, names):
    from safetensors.torch import save_file

    save_file({name: torch.zeros(1) for name in names}, path)
    return str(path)


ORIGINAL = ["model.diffusion_model.input_blocks.0.0.bias", "first_stage_model.x", "cond_stage_model.x"]


def test_a_single_file_is_checked_and_given_to_diffusers(tmp_path, folder, monkeypatch):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    calls = []

    def from_single_file(path, **options):
        calls.append((path, options))
        return pipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", from_single_file)
    file = single_file(tmp_path / "v1-5.safetensors", ORIGINAL)
    location.check_models(values(prior={"path": file}))
    loaded = LatentDiffusion.load(file)
    assert calls == [(file, {"torch_dtype": torch.float32, "safety_checker": None})]
    assert loaded.schedule.prediction == "epsilon" and loaded.latent_shape == (4, 8, 8)
    (tmp_path / "model_index.json").write_text("{}")
    LatentDiffusion.load(file)
    assert calls[1][1]["config"] == str(tmp_path)
    xl = single_file(tmp_path / "xl.safetensors", [*ORIGINAL, "conditioner.embedders.1.x"])
    with pytest.raises(
        InputError, match="^prior.path: .*xl.safetensors is a Stable Diffusion XL checkpoint, which must be a folder"
    ):
        location.locate(xl)
    part = single_file(tmp_path / "unet.safetensors", ORIGINAL[:1])
    with pytest.raises(InputError, match=r"has no tensors 'first_stage_model.\*'; supported are"):
        location.locate(part)
    (tmp_path / "old.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match="old.ckpt must be a .safetensors file, because other formats can run code"):
        location.locate(str(tmp_path / "old.ckpt"))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "xl.safetensors").read_bytes()[:30])
    with pytest.raises(InputError, match="cut.safetensors is damaged"):
        location.locate(str(tmp_path / "cut.safetensors"))


def test_the_score_networks_base_keeps_only_its_compiled_unet(tmp_path, folder):
    other = tiny_pipeline.make(tmp_path / "other", prediction="v_prediction", seed=1)
    prior = LatentDiffusion.load(str(folder), torch_compile=True, vae_slicing=True)
    guide = estimator(prior, score={"base": str(other)})
    base = guide.score.base
    assert base is not prior and base.vae is None and base.text_encoder is None
    assert base.is_compiled and guide.score.unet._compiled_call_impl is not None
    assert prior.vae is not None and prior.vae.use_slicing
    assert torch.equal(guide.score.embed([guide.prompt]), LatentDiffusion.load(str(other)).embed([guide.prompt]))
    own = estimator(prior)
    assert own.score.base is prior and prior.text_encoder is not None


def test_the_data_type_follows_the_gpu(monkeypatch):
    for has_bfloat16, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bfloat16: has)
        assert data_type("auto", "cuda") == expected
    assert data_type("auto", "cpu") == torch.float32 and data_type("float16", "cpu") == torch.float16
    assert config_layers.resolve(("preset", {"prior": {"dtype": "auto"}})).prior.dtype == "auto"


def test_times_on_a_gpu_come_from_its_events(monkeypatch):
    """Events are read in groups, so that the host rarely waits."""
    from prolific_core import optimise

    class Event:
        now, reads = 0.0, 0

        def __init__(self):
            Event.now += 250
            self.time = Event.now

        def synchronize(self):
            Event.reads += 1

        def elapsed_time(self, end):
            return end.time - self.time

    monkeypatch.setattr(optimise, "gpu_event", Event)
    timer = optimise.StageTimer(on_gpu=True)
    for _ in range(400):
        timer.start()
        timer.lap("render")
        timer.lap("guidance")
    assert Event.reads == 1 and sum(timer.seconds.values()) == 125
    assert timer.fractions() == {"render": 0.5, "guidance": 0.5} and timer.seconds == {"render": 100, "guidance": 100}
    assert Event.reads == 2


def test_the_peak_of_gpu_memory_is_recorded_where_a_gpu_was_used(monkeypatch):
    assert machine.peak_gpu_memory_mb() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3 * 2**30)
    assert machine.peak_gpu_memory_mb() == 3072


def test_gpus_are_counted_within_those_that_the_process_may_use(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "absent")
    assert gpus.visible() == [] and gpus.choose("3,0,3") == ["3", "0"]
    for k in range(2):
        (tmp_path / "gpus" / f"0000:0{k}:00.0").mkdir(parents=True)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    assert gpus.visible() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5f2c,6")
    assert gpus.choose("0,2") == ["4", "6"] and gpus.choose("1,GPU-77aa") == ["GPU-5f2c", "GPU-77aa"]
    with pytest.raises(InputError, match="^--gpus 3: CUDA_VISIBLE_DEVICES allows only 3 GPUs, counted from 0$"):
        gpus.choose("3")
    with pytest.raises(InputError, match="^--gpus must be GPU numbers such as 0,1, or UUIDs"):
        gpus.choose("0,x")
    for value, expected in (("", []), ("-1", []), ("2,-1,3", ["2"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert gpus.visible() == expected


@pytest.mark.parametrize(
    ("environment", "given", "slots", "expected"),
    [
        ("2,3", None, 1, {"gpu2": "2", "gpu3": "3"}),
        ("2,3", ["3"], 1, {"gpu3": "3"}),
        ("2,3", None, 2, {"slot0": "2,3", "slot1": "2,3"}),
        (None, ["GPU-5f2c99aa"], 1, {"GPU-5f2c99aa": "GPU-5f2c99aa"}),
        (None, None, 1, {"slot0": None}),
    ],
)
def test_workers_without_a_choice_use_the_gpus_there_are(monkeypatch, tmp_path, environment, given, slots, expected):
    from flows.orchestration import deploy

    started = {}

    def start(command, env, **options):
        started[command[command.index("--name") + 1].removeprefix(f"{deploy.socket.gethostname()}-")] = env.get(
            "CUDA_VISIBLE_DEVICES"
        )
        return type("Process", (), {"poll": lambda self: 1})()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "absent")
    monkeypatch.setattr(deploy, "server", lambda project: None)
    monkeypatch.setattr(deploy, "_stop", lambda workers: None)
    monkeypatch.setattr(deploy, "_clone", lambda project, name: {})  # asks git
    monkeypatch.setattr(deploy.subprocess, "Popen", start)
    with pytest.raises(ProlificError, match="exited with status 1"):
        deploy.work(Project(tmp_path), "gpu", given, slots)
    assert started.pop("head") == "" and started == expected


def test_the_prompts_of_a_sweep_spread_over_the_gpus(monkeypatch):
    """Two prompts at a time never share one of two GPUs."""
    import flows.sweep
    from flows.orchestration import dvc_runner

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    used, busy, together = [], set(), threading.Barrier(2)

    def generate_on(flow, id, sweep):
        gpu = dvc_runner.use_gpu.get()
        assert gpu not in busy
        busy.add(gpu)
        together.wait(60)
        used.append(gpu)
        busy.discard(gpu)
        together.wait(60)

    monkeypatch.setattr(flows.sweep, "run_flow", generate_on)
    board = SimpleNamespace(console=lambda id: None, show=lambda id, status: None)
    run_prompt = flows.sweep._local_runner([], 2)
    flows.sweep._threads(lambda id: run_prompt(id, board), ["a", "b", "c", "d"], 2)
    assert sorted(used) == ["4", "4", "6", "6"] and dvc_runner.use_gpu.get() is None
