"""Training a prior of the Toybox's world: render, autoencoder, diffusion, scorer, classifier, model.

A prior is a folder priors/<name>/ with its numbers (params.yaml) and its DVC pipeline; each stage is
a job like those of a prompt, so a killed one resumes to the step and ends in the same bytes.

    python -m tasks.prior_training.stages diffusion toybox
"""

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from prolific_core import config, prompts
from prolific_core.errors import InputError, ProlificError
from tasks.runtime import machine
from tasks.runtime.console import Console
from tasks.runtime.job import Job, check_output, note_failure
from tasks.runtime.project import Project
from tasks.tracking.prompt_runs import flatten

_HEAD = "# Made from STAGES in tasks/prior_training/stages.py, the same for every prior but for its name: do not edit, `prolific prior train` writes it again.\n"
_COMMON = (
    "prolific_core/toybox/params.py",
    "tasks/runtime/job.py",
    "tasks/runtime/machine.py",
    "tasks/prior_training/stages.py",
)
_WORLD = ("prolific_core/toybox/files.py", "prolific_core/toybox/world")
_TRAINING = (
    "prolific_core/checkpoint.py",
    "prolific_core/toybox/training/shards.py",
    "prolific_core/toybox/training/loop.py",
)
_WORDS = "prolific_core/toybox/vocabulary"


@dataclass(frozen=True)
class Spec:
    """What a stage depends on: earlier stages, code, and the section of its numbers."""

    inputs: tuple[str, ...]
    code: tuple[str, ...]
    section: str | None
    cached: bool = True  # by DVC; renders come again from their seed


def _module(*names: str) -> tuple[str, ...]:
    return tuple(f"prolific_core/toybox/{name}.py" for name in names)


STAGES: dict[str, Spec] = {
    "render": Spec((), (*_WORLD, "prolific_core/toybox/training/shards.py"), "render", cached=False),
    "autoencoder": Spec(
        ("render",), (*_TRAINING, *_module("training/autoencoder", "training/codec_init")), "autoencoder", cached=False
    ),
    "diffusion": Spec(
        ("render", "autoencoder"),
        (
            *_TRAINING,
            *_module("training/diffusion", "training/text"),
            _WORDS,
            "prolific_core/prior/latent_diffusion.py",
        ),
        "diffusion",
    ),
    "scorer": Spec(("render",), (*_TRAINING, *_module("training/scorer", "training/text"), _WORDS), "scorer"),
    "classifier": Spec(("render",), (*_TRAINING, *_module("evaluation/classifier")), "classifier"),
    "model": Spec(
        ("autoencoder", "diffusion", "scorer", "classifier"),
        (*_module("files", "training/publish", "training/scorer", "training/text"), _WORDS),
        None,
    ),
}


class PriorStage(Job):
    """What a stage body sees: a job of one prior."""

    def __init__(self, project: Project, name: str, prior: str):
        if name not in STAGES:
            raise InputError(f"no stage '{name}'; the stages of a prior are {', '.join(STAGES)}")
        self.runs = PriorRuns(project, prior)
        self.config = self.runs.config
        self.title = f"stage '{name}' of the prior '{prior}'"
        self.subject = {"prior": prior}
        spec = STAGES[name]
        self.inputs, self.section = spec.inputs, getattr(self.config, spec.section) if spec.section else None
        self.code = (*_COMMON, *spec.code)
        super().__init__(
            project.root,
            name,
            final=self.runs.output(name),
            state=self.runs.state(name),
            system=self.config.system,
            logging=config.LoggingConfig(metrics_every=1, checkpoint_every=250),
        )

    @property
    def parameters(self) -> dict:
        section = STAGES[self.name].section
        values = self.config.model_dump(mode="json")
        return {key: values[key] for key in (section, "system") if key}

    def input(self, name: str) -> Path:
        if name not in self.inputs:
            raise ProlificError(
                f"stage '{self.name}' reads '{name}' but does not list it: add it to STAGES in tasks/prior_training/stages.py"
            )
        folder = self.runs.output(name)
        shown = f"priors/{self.runs.name}/{name}"
        self._inputs[name] = check_output(folder, shown, f"dvc repro priors/{self.runs.name}/dvc.yaml:{name}")
        return folder

    def sheet(self, views, step: int) -> None:
        """A preview: pictures (N, 3, S, S) in [0, 1], eight in a row."""
        from prolific_core.visualisation import contact_sheet

        self.picture("samples", contact_sheet(views, columns=8), step)

    def observe(self, step: int, values: dict) -> None:
        self.progress(step, self.section.steps, **values)


class PriorRuns:
    """What MLflow is told of a prior (as `tasks.tracking.tracker.PromptRuns` of a prompt), and where its stages lie."""

    experiment = "priors"

    def __init__(self, project: Project, name: str):
        prompts.check_id(name)
        self.project, self.name = project, name
        self.folder = project.root / "priors" / name
        self.tags = {"prior": name}
        self.pipeline = f"priors/{name}/dvc.yaml"

    @property
    def identity(self) -> list:
        return ["prior", self.name, self.config.model_dump(mode="json")]

    @property
    def parameters(self) -> dict:
        return flatten(self.config.model_dump(mode="json"))

    @cached_property
    def config(self):
        """priors/<name>/params.yaml, checked."""
        from prolific_core.toybox.params import Training

        shown = f"priors/{self.name}/params.yaml"
        if not (self.folder / "params.yaml").is_file():
            known = ", ".join(sorted(path.parent.name for path in self.project.root.glob("priors/*/params.yaml")))
            raise InputError(f"no prior '{self.name}' ({shown} is missing); known: {known or 'none'}")
        checked = config.check(shown, prompts.read_yaml(self.folder / "params.yaml", shown) or {}, Training)
        for section in ("autoencoder", "diffusion", "scorer"):  # told before the hours that come first
            initial = getattr(checked, section).initial
            if initial and not (self.project.root / initial / "model_index.json").is_file():
                raise InputError(
                    f"{shown}: {section}.initial = '{initial}': no published model there (model_index.json is missing)"
                )
        return checked

    def missing_sections(self) -> list[str]:
        """Sections that params.yaml leaves out: their defaults hold."""
        given = prompts.read_yaml(self.folder / "params.yaml", self.pipeline) or {}
        return [section for section in type(self.config).model_fields if section not in given]

    def stage_tags(self, stage: str) -> dict:
        return {"prior": self.name}

    def stage_parameters(self, stage: str) -> dict:
        section = STAGES[stage].section
        return flatten(getattr(self.config, section).model_dump(mode="json")) if section else {}

    def state(self, stage: str) -> Path:
        return self.project.state / "priors" / self.name / stage

    def output(self, stage: str) -> Path:
        return self.folder / stage


def render(job: PriorStage) -> dict:
    from prolific_core.toybox.training import shards

    # Finished shards outlive a kill where the checkpoints do.
    folder = job.checkpoint / "shards"
    shards.render(folder, job.section, job.progress)
    for path in sorted(folder.iterdir()):
        # Not moved: until the output is in its place, a kill would cost the renders.
        os.link(path, job.output / path.name)
    return {"images": job.section.images, "heldout_images": job.section.heldout}


def autoencoder(job: PriorStage) -> dict:
    from prolific_core.toybox.training import autoencoder as model
    from prolific_core.toybox.training.shards import heldout_images

    shards = job.input("render")
    vae = model.train(shards, job.section, job.checkpoint / "state.safetensors", job.observe, job.sheet)
    vae.save_pretrained(job.output / "vae")
    model.encode(vae, shards, job.output / "latents", job.progress)
    return {"psnr_db": model.evaluate(vae, heldout_images(count=256)[0])}


def diffusion(job: PriorStage) -> dict:
    from prolific_core.toybox.training import autoencoder as codec
    from prolific_core.toybox.training import diffusion as model

    coded = job.input("autoencoder")
    prior = model.train(
        job.input("render"),
        coded / "latents",
        codec.load(coded),
        job.section,
        job.checkpoint / "state.safetensors",
        job.observe,
        job.sheet,
    )
    prior.unet.save_pretrained(job.output / "unet")
    prior.text_encoder.save_pretrained(job.output / "text_encoder")
    return {"steps": job.section.steps}


def scorer(job: PriorStage) -> dict:
    from prolific_core.toybox.training import scorer as model

    model.publish(
        model.train(job.input("render"), job.section, job.checkpoint / "state.safetensors", job.observe), job.output
    )
    return {"steps": job.section.steps}


def classifier(job: PriorStage) -> dict:
    from prolific_core.toybox.evaluation import classifier as model

    network = model.train(job.input("render"), job.section, job.checkpoint / "state.safetensors", job.observe)
    model.publish(network, job.section, job.output)
    return {"steps": job.section.steps}


def model(job: PriorStage) -> dict:
    """The folder that `prior.path` takes."""
    import shutil

    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    from prolific_core.toybox.training import autoencoder as codec
    from prolific_core.toybox.training.diffusion import build_scheduler
    from prolific_core.toybox.training.publish import publish

    trained = job.input("diffusion")
    publish(
        job.output,
        vae=codec.load(job.input("autoencoder")),
        unet=UNet2DConditionModel.from_pretrained(trained / "unet"),
        text_encoder=CLIPTextModel.from_pretrained(trained / "text_encoder"),
        scheduler=build_scheduler(),
    )
    for part in ("scorer", "classifier"):
        shutil.copytree(
            job.input(part), job.output / part, ignore=shutil.ignore_patterns("manifest.json", "metrics.json")
        )
    return {"size_mb": sum(path.stat().st_size for path in job.output.rglob("*") if path.is_file()) / 1e6}


BODIES = {
    "render": render,
    "autoencoder": autoencoder,
    "diffusion": diffusion,
    "scorer": scorer,
    "classifier": classifier,
    "model": model,
}


def pipeline(prior: str) -> str:
    """The content of priors/<prior>/dvc.yaml."""
    stages, folder = {}, f"priors/{prior}"
    for name, spec in STAGES.items():
        stages[name] = {
            "wdir": "../..",
            "cmd": f"exec python -m tasks.prior_training.stages {name} {prior}",
            "deps": [*sorted((*_COMMON, *spec.code)), *(f"{folder}/{earlier}" for earlier in spec.inputs)],
            "params": [{f"{folder}/params.yaml": [section for section in (spec.section, "system") if section]}],
            "outs": [{f"{folder}/{name}": {"cache": spec.cached}}],
        }
    return _HEAD + yaml.safe_dump({"stages": stages}, sort_keys=False, width=200)


def run(project: Project, name: str, prior: str) -> dict:
    """Run one stage of a prior, in this process; its metrics."""
    job = PriorStage(project, name, prior)
    job.key  # noqa: B018 (a missing input is told at once, before torch is loaded)
    os.chdir(project.root)
    machine.threads(job.system.threads)
    job.device  # noqa: B018 (threads and determinism, before anything computes)
    return job.run(BODIES[name], Console(f"{prior} {name}"))


def main(arguments: list[str] | None = None) -> int:
    """`python -m tasks.prior_training.stages STAGE NAME`, the command of every DVC stage of a prior."""
    from tasks.runtime.failures import reported

    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2:
        print(
            f"usage: python -m tasks.prior_training.stages STAGE NAME; the stages are {', '.join(STAGES)}",
            file=sys.stderr,
        )
        return 2
    machine.disable_telemetry()
    if "DVC_STAGE" in os.environ:
        machine.die_with_parent()

    def work() -> None:
        from tasks.tracking import tracker

        runs = PriorRuns(project, arguments[1])
        (runs.state(arguments[0]) / "failure.json").unlink(missing_ok=True)
        run(project, *arguments)
        if os.environ.get("PROLIFIC_TRACKER") != "flow":  # whoever runs the flow sends the records itself
            tracker.sync(project, runs, [arguments[0]])

    project = Project.find()
    return reported(
        work,
        note=lambda line, status: note_failure(project.state / "priors" / arguments[1] / arguments[0], line, status),
    )


if __name__ == "__main__":
    sys.exit(main())
