"""Inputs, code, data and parameters that each stage of a prior's training depends on.

Only DVC uses the lists of code. Checkpoints do not depend on code, because training may take a day and must be able to
resume after the code was edited or moved (`tasks/prior_training/job.py`). After an edit that cannot change a result,
such as an edit of a comment, run `dvc commit priors/NAME/dvc.yaml`. It updates dvc.lock, so no stage runs again.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PriorStageSpec:
    """Dependencies of one stage's result.

    Attributes:
        inputs: Names of the earlier stages whose outputs the stage reads.
        code: Files and folders, relative to the project root. If one of them changes, DVC runs the stage again.
        section: Section of priors/<name>/params.yaml that the stage reads, or None if it reads only `system`.
        data: Data files and folders of the package that the stage reads.
        cached: Whether DVC caches the output. Renders and latents are not cached, because they can be regenerated.
    """

    inputs: tuple[str, ...]
    code: tuple[str, ...]
    section: str | None
    data: tuple[str, ...] = ()
    cached: bool = True

    @property
    def dependencies(self) -> list[str]:
        """Sorted paths of the stage's code, its data, and the code that all stages share."""
        return sorted({*_COMMON, *self.code, *self.data})

    @property
    def sections(self) -> list[str]:
        """Names of the parameter sections that the result depends on."""
        return [section for section in (self.section, "system") if section]


_COMMON = (
    "prolific_core/config.py",
    "prolific_core/files.py",
    "prolific_core/toybox/params.py",
    "tasks/prior_training/job.py",
    "tasks/prior_training/stages.py",
    "tasks/runtime/digests.py",
    "tasks/runtime/job.py",
    "tasks/runtime/machine.py",
    "tasks/runtime/manifest.py",
)
_RENDERS = (
    "prolific_core/render/warp_launch.py",
    "prolific_core/toybox/files.py",
    "prolific_core/toybox/training/shards.py",
    "prolific_core/toybox/world",
    "prolific_core/view_names.py",
)
_TRAINING = (
    *_RENDERS,
    "prolific_core/checkpoint.py",
    "prolific_core/toybox/training/loop.py",
    "prolific_core/toybox/training/muon.py",
)
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
    "text": PriorStageSpec(
        ("render",), (*_TRAINING, _TEXT, "prolific_core/toybox/training/text_encoder.py"), "text", _VOCABULARY
    ),
    "diffusion": PriorStageSpec(
        ("render", "autoencoder", "text"),
        (
            *_TRAINING,
            _TEXT,
            "prolific_core/prior/latent_diffusion.py",
            "prolific_core/prior/parts.py",
            "prolific_core/prior/location.py",
            "prolific_core/prior/noise_schedule.py",
            "prolific_core/toybox/training/diffusion.py",
        ),
        "diffusion",
        _VOCABULARY,
    ),
    "scorer": PriorStageSpec(
        ("render", "text"),
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
    "model": PriorStageSpec(("autoencoder", "text", "diffusion", "scorer", "classifier"), _PUBLISH, None, _VOCABULARY),
}
