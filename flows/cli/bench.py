"""The commands `prolific bench quality`, `guidance`, `theory`, `render`, `asset`, `raster`, `gpu` and `pipeline`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import PRESET_HELP, Json, Settings, complete_preset
from prolific_core.discovery import guidance_methods
from tasks.runtime.console import announce

GuidanceMethod = StrEnum("GuidanceMethod", guidance_methods())
# "initial" is the scene before any guidance.
QualityMethod = StrEnum("QualityMethod", sorted({"initial", *guidance_methods()}))
PAPER = [QualityMethod("initial"), QualityMethod("sds"), QualityMethod("vsd")]  # the methods that the paper compares


class PipelineBenchmark(StrEnum):
    """Names of the benchmarks in flows/benchmarks/pipeline.py."""

    TINY = "tiny"
    NOOP_10 = "noop_10"
    NOOP_100 = "noop_100"
    SWEEP = "sweep"


app = typer.Typer(
    help="""Measure quality and speed, and compare the results with their goals.

Examples:
$ prolific bench guidance --json
$ prolific bench quality --seeds 1 --prompt "a red mug"
$ prolific bench pipeline --only noop_10""",
    no_args_is_help=True,
)


@app.command()
def quality(
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROMPT", help="Use this prompt instead of the twelve default prompts. This option can be repeated."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="The number of seeds, starting from 0.")] = 3,
    method: Annotated[
        list[QualityMethod] | None,
        typer.Option(
            help="Run only this method. This option can be repeated. By default, initial, sds and vsd are run."
        ),
    ] = None,
    preset: Annotated[str, typer.Option(metavar="NAME", help=PRESET_HELP, autocompletion=complete_preset)] = "demo",
    json: Json = False,
) -> None:
    """Evaluate models of a fixed set of prompts and seeds. This takes hours.

    The models are compared with true renders. An interrupted run continues where it stopped.
    """
    from flows.benchmarks import quality
    from tasks.runtime.project import Project

    rows = quality.quality(
        Project.find(),
        prompts=prompt or list(quality.PROMPTS),
        seeds=seeds,
        methods=[name.value for name in method or PAPER],
        preset=preset,
    )
    _show(quality.table(rows), rows, json)


@app.command()
def guidance(
    repetitions: Annotated[
        int, typer.Option(metavar="N", min=3, max=1000, help="The number of interleaved repetitions of each call.")
    ] = 15,
    json: Json = False,
) -> None:
    """Measure the cost of a VSD iteration relative to its bare network calls."""
    announce("loading the prior")
    from flows.benchmarks import guidance
    from tasks.runtime.project import Project

    rows = guidance.bench(Project.find(), repetitions)
    _show(guidance.table(rows), rows, json, overhead_ratio=max(row.overhead_ratio for row in rows))


@app.command()
def theory(
    method: Annotated[
        list[GuidanceMethod] | None,
        typer.Option(help="Run only this method. This option can be repeated. By default, all are run."),
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="The number of steps of each run.")] = 600,
    json: Json = False,
) -> None:
    """Show where 64 particles of every guidance method end if the scores are known. This takes about three minutes."""
    from tasks.runtime import machine

    machine.threads(1)
    announce("loading torch")
    from flows.benchmarks import theory

    rows = theory.bench(steps, [name.value for name in method or GuidanceMethod])
    _show(theory.table(rows), rows, json)


@app.command()
def render(
    repetitions: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="The number of repetitions of each call.")
    ] = 5,
    json: Json = False,
) -> None:
    """Compare the speed of the radiance field's kernels with PyTorch and numba. This takes about three minutes."""
    from tasks.runtime import machine

    machine.threads(1)
    announce("measuring the kernels")
    from flows.benchmarks import render

    numbers = render.bench(repetitions)
    _show(render.table(numbers), numbers, json)


@app.command()
def asset(
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROMPT", help="Use this prompt instead of the twelve default prompts. This option can be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The seed of the true objects.")] = 0,
    preset: Annotated[str, typer.Option(metavar="NAME", help=PRESET_HELP, autocompletion=complete_preset)] = "demo",
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the GLB files to this folder. By default, none are written."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure what is lost between a radiance field and the exported mesh.

    The fields are fitted to true renders, without a prior. This takes about ten minutes.
    """
    from flows.benchmarks.quality import check_prompts
    from flows.prompt_store import create
    from prolific_core.prompts import Prompt
    from tasks.runtime import machine
    from tasks.runtime.project import Project

    project = Project.find()
    sections = create.settings(settings or [])
    values = project.config(Prompt(id="bench-asset", text="a red mug", preset=preset, sections=sections))
    machine.threads(values.system.threads)
    from flows.benchmarks import asset

    prompts = prompt or list(asset.PROMPTS)
    check_prompts(prompts)
    machine.set_up_torch(values.system.threads, "cpu")
    rows = []
    for text in prompts:
        announce(f"fitting a field to {text}")
        rows += asset.bench(values, [text], seed, out)
    _show(asset.table(rows), rows, json, **asset.medians(rows))


@app.command()
def raster(
    repetitions: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="The number of repetitions of each call.")
    ] = 3,
    json: Json = False,
) -> None:
    """Measure the rendering of meshes of 1k to 200k faces at 128 to 1024 pixels."""
    from tasks.runtime import machine

    machine.threads(1)
    announce("rendering meshes")
    from flows.benchmarks import raster

    numbers = raster.bench(repetitions)
    _show(raster.table(numbers), numbers, json)


@app.command()
def gpu(
    preset: Annotated[str, typer.Option(help="A file in presets/.")] = "paper",
    steps: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="The number of timed steps.")] = 20,
    json: Json = False,
) -> None:
    """Measure the time and memory of a step of each optimised stage, on the device in system.device."""
    from prolific_core.prompts import Prompt
    from tasks.runtime import machine
    from tasks.runtime.project import Project

    project = Project.find()
    values = project.config(Prompt(id="bench-gpu", text="a red mug", preset=preset))
    machine.check_device(values.system.device)
    machine.threads(values.system.threads)
    from flows.benchmarks import gpu_steps

    rows = gpu_steps.bench(values, steps)
    _show(gpu_steps.table(rows), rows, json)


@app.command()
def pipeline(
    only: Annotated[
        list[PipelineBenchmark] | None,
        typer.Option(
            metavar="NAME",
            help="Run only tiny, noop_10, noop_100 or sweep. This option can be repeated. By default, all are run.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the overhead of Prefect, DVC and MLflow. This takes about fifteen minutes."""
    from flows.benchmarks import pipeline
    from tasks.runtime.console import Console
    from tasks.runtime.project import Project

    numbers = pipeline.bench(
        Project.find(), [name.value for name in only or PipelineBenchmark], Console("bench pipeline").note
    )
    _show(pipeline.table(numbers), numbers, json)


@app.command()
def cluster(
    prompts: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="The number of prompts.")] = 1000,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=32, help="The number of simulated workers.")] = 8,
    seconds: Annotated[float, typer.Option(metavar="S", min=0, max=3600, help="The time of a prompt.")] = 10.0,
    json: Json = False,
) -> None:
    """Measure what a sweep over many prompts costs its head, with workers that only sleep."""
    from flows.benchmarks import cluster
    from tasks.runtime.console import Console
    from tasks.runtime.project import Project

    numbers = cluster.bench(Project.find(), prompts, workers, seconds, Console("bench cluster").note)
    _show(cluster.table(numbers), numbers, json)


def _show(table: str, found: object, json: bool, **summary: float) -> None:
    from flows.benchmarks.results import as_json

    print(table)
    if json:
        print(as_json(found, **summary))
