"""The commands `prolific prior sample`, `vocabulary`, `check` and `train`."""

import math
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Json, PromptText, join_words
from flows.cli.vocabulary import vocabulary
from prolific_core.errors import InputError
from tasks.runtime.console import announce

app = typer.Typer(
    help="""Sample, check and train the 2D diffusion model, and list its vocabulary.

Examples:
$ prolific prior sample "a red mushroom" -n 4
$ prolific prior vocabulary
$ prolific prior train mine""",
    no_args_is_help=True,
)


@app.command()
def sample(
    text: PromptText,
    count: Annotated[int, typer.Option("-n", metavar="N", min=1, max=1024, help="The number of images.")] = 16,
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("samples.png"),
    scale: Annotated[
        float, typer.Option(min=0, max=1000, metavar="X", help="The scale of classifier-free guidance.")
    ] = 3.0,
    steps: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="The number of DDIM steps.")] = 30,
    seed: Annotated[int, typer.Option(help="The random seed.")] = 0,
) -> None:
    """Sample images of a prompt and write them as one PNG file."""
    from flows.prompt_store.vocabulary import warn
    from prolific_core import prompts
    from tasks.runtime.project import Project

    prompt, out = prompts.check_text(join_words(text)), out.resolve()
    if not out.parent.is_dir():
        raise InputError(f"--out: the folder {out.parent} does not exist")
    project = Project.find()
    shared = _shared_config()
    warn(project, prompt, shared)
    announce("loading the prior")
    from prolific_core.cameras import orbit
    from prolific_core.prior.kinds import load_prior
    from prolific_core.seeding import generator
    from prolific_core.visualisation import contact_sheet
    from tasks.runtime.job import save_png
    from tasks.runtime.machine import set_up_torch

    device = set_up_torch(shared.system.threads, shared.system.device)
    prior = load_prior(shared.prior.path, device=device, dtype=shared.prior.dtype)
    prior.observe(orbit(prior.views_together, elevation=15, distance=1.4, fov=45).c2w.to(device))
    announce(f"sampling {count} images")
    images = prior.sample([prompt] * count, scale=scale, steps=steps, generator=generator(seed, "sample"))
    save_png(out, contact_sheet(images.cpu(), columns=min(count, 8)))
    print(out)


app.command()(vocabulary)


@app.command()
def check(
    prior: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A model of the Toybox world. By default, the packaged model is checked."),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=40, help="The number of images to sample.")] = 1000,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="Write samples beside true renders as a PNG file. By default, none is written.",
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The classifier to use. By default, the packaged one is used."),
    ] = None,
    sides: Annotated[
        bool,
        typer.Option(help="Tell left from right in captions. A prior that was not trained on such captions is misled."),
    ] = True,
    json: Json = False,
) -> None:
    """Compare the metrics of a prior of the Toybox world with their goals. This takes about 12 minutes.

    Examples:
    $ prolific prior check
    $ prolific prior check --prior priors/mine/model --samples 200
    """
    from prolific_core.prior.location import locate
    from prolific_core.toybox.evaluation.check import measure
    from prolific_core.visualisation import contact_sheet
    from tasks.runtime.console import Console
    from tasks.runtime.job import save_png
    from tasks.runtime.machine import set_up_torch
    from tasks.runtime.records import EtaEstimator

    # Reading the parameters changes the working directory.
    image, classifier = image and image.resolve(), classifier and classifier.resolve()
    if image and not image.parent.is_dir():
        raise InputError(f"--image: the folder {image.parent} does not exist")
    if classifier and not (classifier / "config.json").is_file():
        raise InputError(
            f"--classifier must be the folder of a classifier, which contains config.json, got {classifier}"
        )
    shared = _shared_config()
    folder = Path(locate(prior or "toybox"))
    if not folder.is_dir():
        raise InputError(f"--prior must be the folder of a model of the Toybox world, got {prior}")

    def show(images) -> None:
        if image:
            save_png(image, contact_sheet(images, columns=16))

    announce(f"comparing {samples} images of the prior with true renders")
    set_up_torch(shared.system.threads, "cpu")
    eta = EtaEstimator()
    with closing(Console("check")) as console:

        def progress(done: int, total: int) -> None:
            console.step(done, total, eta.left(done, total))

        numbers = measure(folder, samples, classifier=classifier, sides=sides, progress=progress, show=show)
    print(table(numbers))
    if json:
        from flows.benchmarks.results import as_json

        print(as_json(numbers))


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The folder in priors/.")] = "toybox",
) -> None:
    """Train a prior of the Toybox world, or continue its training. This takes hours.

    The training parameters are in priors/NAME/params.yaml.
    """
    from flows.orchestration import prefect_runtime
    from tasks.prior_training import pipeline
    from tasks.runtime.project import Project

    project = Project.find()
    pipeline.refresh(project, name)  # reports mistakes in params.yaml before a server starts
    prefect_runtime.set_up(project)
    from flows.train_prior import train_prior

    print(prefect_runtime.run_flow(train_prior, name))


def table(numbers: dict) -> str:
    """Format the metrics, their goals, and the classifier's accuracy on true renders and on samples as tables."""
    from flows.benchmarks.results import Goal, goal_table
    from prolific_core.toybox.evaluation.check import GOALS

    lines = [
        goal_table(numbers, {name: Goal(*goal) for name, goal in GOALS.items()}),
        "",
        f"The autoencoder alone has a Frechet ratio of {numbers['frechet_ratio_of_autoencoder']:.3f} and a sharpness",
        f"ratio of {numbers['sharpness_ratio_of_autoencoder']:.2f}; against raw renders, the two-sample accuracy is "
        f"{numbers['two_sample_accuracy_raw']:.3f}.",
        f"Accuracy of the classifier on true renders and on {numbers['samples']} samples at CFG {numbers['cfg']:g}:",
    ]
    for group, accuracy in numbers["accuracies"].items():
        heads = (
            f"{head} {true:.2f} {accuracy['samples'][head]:.2f}"
            for head, true in accuracy["truth"].items()
            if not math.isnan(true)
        )
        line = f"  {group:8} ({accuracy['count']}) " + ", ".join(heads)
        lines.append(textwrap.fill(line, 80, subsequent_indent=" " * 17))
    return "\n".join(lines)


def _shared_config():
    """Change to the project root and return the parameters in params.yaml, whose paths are relative to the root."""
    import os

    from tasks.runtime.project import Project

    project = Project.find()
    os.chdir(project.root)
    return project.shared_config()
