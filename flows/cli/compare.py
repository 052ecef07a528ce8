"""The command `prolific compare`."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import PRESET_HELP, Json, complete_preset
from flows.cli.options import systems as known_systems
from prolific_core.discovery import guidance_methods
from prolific_core.errors import InputError
from tasks.runtime.console import announce


class Space(StrEnum):
    """What a comparison optimises: images, radiance fields or both."""

    IMAGES = "2d"
    FIELDS = "3d"
    BOTH = "both"


def compare(
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"The guidance methods, separated by commas: {', '.join(guidance_methods())}. By default, all are "
            "compared (--quick in 3D: vsd and sds).",
        ),
    ] = None,
    systems: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Compare the final models of systems, separated by commas: {', '.join(known_systems())}. By default, "
            "guidance methods are compared.",
        ),
    ] = None,
    space: Annotated[
        Space | None,
        typer.Option(help="Compare images, radiance fields or both. The default is 3d (--quick: both)."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text file with one prompt of the Toybox world per line. By default, the first 3 prompts of "
            "`prolific bench quality` are used (--full: all 12).",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The number of seeds, starting from 0. The default is 3.")
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=10,
            max=10_000_000,
            help="The number of U-Net evaluations of each method, per image (2d) or radiance field (3d). The default "
            "is 1,200 per image and 3,600 per field (--quick: 400 and 1,800).",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test that allows no conclusions.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Use 12 prompts, which takes many hours.")] = False,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="The number of runs at the same time.")] = 2,
    preset: Annotated[
        str, typer.Option(metavar="NAME", help=f"For 3D: {PRESET_HELP}", autocompletion=complete_preset)
    ] = "demo",
    out: Annotated[Path, typer.Option(help="The folder for compare.md, compare.json and compare.html.")] = Path(
        "compare"
    ),
    reuse: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The folder of an earlier comparison (it may be that of --out). Those of its runs that are in the new "
            "table are not made again. By default, no such folder is used.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare guidance methods at equal cost, or systems, against known truth.

    The guidance scale of each method is chosen first, with prompts that are not
    in the table. An interrupted comparison continues where it stopped.

    Examples:
    $ prolific compare --quick
    $ prolific compare --space 2d --methods vsd,sds,csd --seeds 4
    $ prolific compare --seeds 2 --reuse docs/leaderboard/3d
    $ prolific compare --systems prolificdreamer,dreamfusion --seeds 1
    """
    if full and quick:
        raise InputError("--full and --quick cannot be used together")
    if systems and (methods or space or evaluations):
        raise InputError("--systems cannot be used with --methods, --space or --evaluations, which a system decides")
    chosen = _names("--methods: no guidance method", methods, guidance_methods())
    chosen_systems = _names("--systems: no system", systems, known_systems())
    space = space or (Space.BOTH if quick else Space.FIELDS)
    from tasks.runtime import machine
    from tasks.runtime.project import Project

    project, texts, out = Project.find(), _lines(prompts), out.resolve()
    reuse = None if reuse is None else reuse.resolve()
    os.chdir(project.root)  # paths in the parameters are relative to the root
    machine.threads(project.shared_config().system.threads)
    announce("loading torch")
    from flows.benchmarks import results
    from flows.benchmarks.comparison import compare

    form = "quick" if quick else "full" if full else "default"
    found = compare.run(
        project,
        form,
        spaces=["2d", "3d"] if space == Space.BOTH else [space.value],
        methods=chosen,
        systems=chosen_systems,
        prompts=texts,
        seeds=seeds,
        evaluations=evaluations,
        workers=workers,
        preset=preset,
        out=out,
        reuse=reuse,
    )
    print(compare.text(form, found))
    print(f"\npage       {out / 'compare.html'}")
    if json:
        print(results.as_json({part.name: part.means for part in found}))


def _names(problem: str, text: str | None, known: list[str]) -> list[str]:
    """Return the names in a list that is separated by commas, each of which must be known."""
    names = list(dict.fromkeys(name.strip() for name in text.split(","))) if text else []
    for name in names:
        if name not in known:
            raise InputError(f"{problem} {name!r}; known: {', '.join(known)}")
    return names


def _lines(path: Path | None) -> list[str]:
    """Return the prompts in a file."""
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts: cannot read {path}: {error}") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError(f"--prompts: {path} has no prompts")
    return found
