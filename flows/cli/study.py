"""The command `prolific study`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Json
from prolific_core.errors import InputError
from tasks.runtime.console import announce


def study(
    full: Annotated[
        bool, typer.Option("--full", help="Use 8 prompts with 16 particles each, which takes hours.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use 2 prompts with 2 particles each, which takes minutes.")
    ] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROMPT", help="Use this prompt instead of the default prompts. This option can be repeated."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help='Run only this method, for example "vsd 7.5" or any guidance method and scale, such as "csd 10". This '
            "option can be repeated. By default, those of the paper are run.",
        ),
    ] = None,
    particles: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of images for each prompt and method. The default is 8 (--quick: 2, --full: 16).",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of optimisation steps per particle. The default is 200 (--quick: 30, --full: 300).",
        ),
    ] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Optimise pixels through the encoder instead of latents.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The folder for study.md, study.json and study.png.")] = Path("study"),
    json: Json = False,
) -> None:
    """Compare sampling, SDS and VSD on the same prior in 2D, as in the paper.

    Without --full or --quick, the study uses 4 prompts with 8 particles each.
    An interrupted study continues where it stopped.

    Examples:
    $ prolific study --quick
    $ prolific study --prompt "a red mug" --method "vsd 7.5" --method "sds 100"
    """
    if full and quick:
        raise InputError("--full and --quick cannot be used together")
    announce("loading the prior")
    from flows.benchmarks import study
    from flows.benchmarks.results import as_json
    from tasks.runtime.project import Project

    out = out.resolve()
    rows = study.run(
        Project.find(),
        "full" if full else "quick" if quick else "default",
        texts=prompt,
        methods=method,
        out=out,
        particles=particles,
        steps=steps,
        pixels=pixels or None,
    )
    print(study.table(rows))
    print(f"figure     {out / 'study.png'}")
    if json:
        print(as_json(rows))
