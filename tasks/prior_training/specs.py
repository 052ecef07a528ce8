"""Inputs, code, data and parameters that each stage of a prior's training depends on.

A training may take a day, so that its lists of code serve DVC alone: a checkpoint does not depend on them, and a
training that was interrupted resumes although its code has been edited or moved since (`tasks/prior_training/job.py`).
After an edit that cannot change a result, such as a comment, `dvc commit priors/NAME/dvc.yaml` brings dvc.lock up to
date, and no stage runs again.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PriorStageSpec:
    """Everything that a stage's result depends on.

    Attributes:
        inputs: Earlier stages whose output it reads.
        code: Files and folders, relative to the project's root, whose change makes DVC run the stage again.
        section: Section of priors/<name>/params.yaml that it reads, besides `system`.
        data: Files and folders of the package that it reads, beside the code.
        cached: Whether DVC keeps the output in its cache; renders and their latents are made again from their seed.
    """

    inputs: tuple[str, ...]
    code: tuple[str, ...]
    section: str | None
    data: tuple[str, ...] = ()
    cached: bool = True

    @property
    def dependencies(self) -> list[str]:
        """Code and data of the stage and of all stages, sorted."""
        return sorted({*_COMMON, *self.code, *self.data})

    @property
    def sections(self) -> list[str]:
        """Sections of the parameters that the result depends on."""
        return [section for section in (self.section, "system") if section]


_COMMON = (
    "prolific_core/config.py",
    "prolific_core/files.py",
    "prolific_core/toybox/params.py",
    "tasks/prior_training/job.py",
    "tasks/prior_training/stages.py",
    "tasks/runtime/job.py",
    "tasks/runtime/machine.py",
)
_RENDERS = (
    "prolific_core/render/warp_launch.py",
    "prolific_core/toybox/files.py",
    "prolific_core/toybox/training/shards.py",
    "prolific_core/toybox/world",
)
_TRAINING = (*_RENDERS, "prolific_core/checkpoint.py", "prolific_core/toybox/training/loop.py")
_TEXT = "prolific_core/toybox/training/text.py"
_PUBLISH = ("prolific_core/toybox/training/publish.py", _TEXT)
_VOCABULARY = ("prolific_core/toybox/vocabulary",)

STAGES: dict[str, PriorStageSpec] = {
    "render": PriorStageSpec((), _RENDERS, "render", cached=False),
    "autoencoder": PriorStageSpec(
        ("render",),
        (
            *_TRAINING,
            "prolific_core/toybox/training/autoencoder.py",
            "prolific_core/toybox/training/codec_init.py",
        ),
        "autoencoder",
        cached=False,
    ),
    "diffusion": PriorStageSpec(
        ("render", "autoencoder"),
        (
            *_TRAINING,
            _TEXT,
            "prolific_core/prior/latent_diffusion.py",
            "prolific_core/prior/location.py",
            "prolific_core/prior/noise_schedule.py",
            "prolific_core/toybox/training/diffusion.py",
        ),
        "diffusion",
        _VOCABULARY,
    ),
    "scorer": PriorStageSpec(
        ("render",),
        (*_TRAINING, *_PUBLISH, "prolific_core/toybox/training/scorer.py"),
        "scorer",
        _VOCABULARY,
    ),
    "classifier": PriorStageSpec(
        ("render",),
        (
            *_TRAINING,
            "prolific_core/toybox/evaluation/classifier.py",
            "prolific_core/toybox/training/classifier.py",
        ),
        "classifier",
    ),
    "model": PriorStageSpec(("autoencoder", "diffusion", "scorer", "classifier"), _PUBLISH, None, _VOCABULARY),
}
