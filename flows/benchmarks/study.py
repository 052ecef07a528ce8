"""The paper's 2D experiment (`prolific study`), which writes images, a table and an MLflow run.

A cell of the study consists of the images of one method and prompt. Every finished cell is saved, so an interrupted
study continues where it stopped.
"""

import hashlib
import json
import os
import re
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

import prolific_core
from flows.benchmarks import results
from prolific_core import checkpoint, prompts
from prolific_core.discovery import guidance_methods
from prolific_core.errors import InputError
from prolific_core.experiments import study_2d as study
from prolific_core.files import write_atomically, write_json
from prolific_core.prior.kinds import load_prior
from prolific_core.prior.location import locate
from prolific_core.prior.scorer import Scorer
from prolific_core.toybox.evaluation.agreement import agreement
from prolific_core.toybox.evaluation.classifier import load_classifier
from prolific_core.toybox.world import draw as world
from tasks.runtime.console import Console
from tasks.runtime.digests import digest
from tasks.runtime.job import save_png
from tasks.runtime.machine import set_up_torch
from tasks.runtime.project import Project
from tasks.runtime.records import EtaEstimator
from tasks.tracking.tracker import remember

PROMPTS = (
    "a red mushroom",
    "a blue cube",
    "a yellow house",
    "a green cone",
    "a red mug",
    "a blue chair",
    "a white snowman",
    "a purple ball",
)
TRACKED = {
    "family": "family_agreement",
    "colour": "colour_agreement",
}  # MLflow names of metrics that are abbreviated in the rows
TRUE_RENDERS = 64  # number of true renders per prompt
FORMS = {  # number of prompts and settings of each form
    "default": (4, study.Settings(particles=8, steps=200)),
    "full": (8, study.Settings(particles=16, steps=300)),
    "quick": (2, study.Settings(particles=2, steps=30, sampler_steps=20)),
}


class Study:
    """Study that stores its cells in .state/study/<key>/.

    The key is a hash of the settings, code and weights on which the cells depend.
    """

    def __init__(self, project: Project, texts: list[str], methods: list[study.Method], settings: study.Settings):
        os.chdir(project.root)
        values = project.shared_config()
        for text in texts:
            if world.parse(text) is None:
                raise InputError(f"the prompt must name an object and a colour of the Toybox world, got {text!r}")
        self.texts, self.methods, self.settings = texts, methods, settings
        self.path = values.prior.path
        self.device = set_up_torch(values.system.threads, values.system.device)
        folder = Path(locate(self.path))
        code = Path(prolific_core.__file__).parent
        depends_on = [
            asdict(settings),
            values.system.model_dump(),
            *(
                digest(code / name)
                for name in ("experiments/study_2d.py", "guidance", "optimise.py", "scenes/image.py")
            ),
        ]
        depends_on.append(
            [digest(folder / part) for part in ("unet", "vae", "text_encoder", "scheduler")]
            if folder.is_dir()
            else self.path
        )
        self.key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = project.state / "study" / self.key
        self.prior = load_prior(self.path, device=self.device, dtype=values.prior.dtype)

    def cell(self, method: study.Method, text: str, title: str) -> tuple[Tensor, float]:
        """Return the images of a cell and the time in seconds that it took to generate them.

        If the cell is already saved, it is loaded instead of generated.
        """
        folder = self.folder / prompts.make_id(f"{method.name} {text}", distinct=True)
        done = folder / "cell.safetensors"
        if not done.is_file():
            eta, began = EtaEstimator(), time.monotonic()
            with closing(Console(title)) as console:
                images = study.make(
                    self.prior,
                    method,
                    text,
                    self.settings,
                    folder,
                    lambda step, steps: console.step(step, steps, eta.left(step, steps)),
                )
            # If a cell was interrupted, only the time since it was resumed is counted.
            checkpoint.save(done, {"images": images.cpu(), "seconds": time.monotonic() - began})
            for state in folder.glob("state-*.safetensors"):
                state.unlink()
        kept = checkpoint.load(done)
        return kept["images"], kept["seconds"]

    def run(self) -> tuple[list[study.Row], dict[str, dict[str, Tensor]]]:
        """Run all cells and return one row per method and the images.

        The images are keyed by method and prompt, and the method "truth" contains the true renders.
        """
        truth = {text: true_renders(text, TRUE_RENDERS) for text in self.texts}
        classifier, scorer = load_classifier(), Scorer.load(None, self.path)
        rows, images_of = [], {"truth": truth}
        total = len(self.methods) * len(self.texts)
        for m, method in enumerate(self.methods):
            cells = {}
            for k, text in enumerate(self.texts):
                cells[text] = self.cell(method, text, f"{m * len(self.texts) + k + 1}/{total} {method.name}, {text}")
            images_of[method.name] = {text: images for text, (images, _) in cells.items()}
            seconds = sum(seconds for _, seconds in cells.values())
            features = lambda images: classifier.classify(images).features  # noqa: E731
            rows.append(study.row(method.name, images_of[method.name], truth, seconds, features, agreement, scorer))
        return rows, images_of


def true_renders(text: str, count: int) -> Tensor:
    """Return `count` true renders (N, 3, 64, 64) of a prompt in [0, 1], none of which is in the training data."""
    import numpy as np

    images = [world.draw(90_017, k, kind="colour", words=world.parse(text)).image for k in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _method(name: str) -> study.Method:
    """Return a method of the study by its name, or any guidance method by its name and scale, such as "ism 7.5"."""
    known = {method.name: method for method in study.METHODS + study.SAVINGS}
    if name in known:
        return known[name]
    kind, _, scale = name.partition(" ")
    if kind not in guidance_methods() or not re.fullmatch(r"\d+(\.\d+)?", scale):
        raise InputError(
            f"no method {name!r}; known: {', '.join(known)}; or a guidance method and its scale, such as 'csd 7.5', of "
            f"{', '.join(guidance_methods())}"
        )
    return study.Method(name, kind, float(scale))


def run(
    project: Project, form: str, *, texts: list[str] | None, methods: list[str] | None, out: Path, **changed
) -> list[study.Row]:
    """Run a study, write study.md, study.json and study.png to `out`, and return its rows.

    `form` is a key of FORMS. Values in `changed` that are not None override its settings.
    """
    count, settings = FORMS[form]
    settings = replace(settings, **{name: value for name, value in changed.items() if value is not None})
    if settings.particles < 2:
        raise InputError(f"--particles must be at least 2 to measure diversity, got {settings.particles}")
    chosen = [_method(name) for name in methods] if methods else list(study.METHODS)
    texts = texts or list(PROMPTS[:count])
    work = Study(project, texts, chosen, settings)
    rows, images = work.run()
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "study.md", out / "study.json", out / "study.png"]
    write_atomically(files[0], (table(rows) + "\n").encode())
    write_json(files[1], {"prompts": texts, "settings": asdict(settings), "rows": [asdict(row) for row in rows]})
    save_png(files[2], figure(images, texts))
    values = {
        f"{row.method} {TRACKED.get(name, name)}": value
        for row in rows
        for name, value in asdict(row).items()
        if name != "method"
    }
    remember(project, "study", work.key, {"form": form, "prompts": ", ".join(texts), **asdict(settings)}, values, files)
    return rows


def table(rows: list[study.Row]) -> str:
    """Format the rows as a Markdown table with one line per method."""
    return results.table(list(study.Row.__dataclass_fields__), (list(asdict(row).values()) for row in rows))


def figure(images_of: dict[str, dict[str, Tensor]], texts: list[str], columns: int = 4) -> Tensor:
    """Draw a figure (3, H, W) in [0, 1] with one row per method and up to `columns` images per prompt."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    shown = {name: torch.cat([sets[text][:columns] for text in texts]) for name, sets in images_of.items()}
    side, margin, head = 64, 150, 22
    sheet = Image.new("RGB", (margin + side * max(map(len, shown.values())), head + side * len(shown)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    per = len(next(iter(shown.values()))) // len(texts)
    for k, text in enumerate(texts):
        draw.text((margin + k * per * side + 4, 3), text, fill="black", font=font)
    for r, (name, images) in enumerate(shown.items()):
        draw.text((6, head + r * side + side // 2 - 8), name, fill="black", font=font)
        for c, image in enumerate(images):
            pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (margin + c * side, head + r * side))
    return torch.from_numpy(np.asarray(sheet).copy()).permute(2, 0, 1).float() / 255
