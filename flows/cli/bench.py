"""`prolific bench`: what is measured. Imports nothing heavy."""

import argparse

from prolific_core.errors import InputError
from tasks.runtime import machine

PIPELINE = ("tiny", "noop_10", "noop_100", "sweep")


def add_to(commands) -> None:
    bench = commands.add_parser("bench", help="measure: quality, guidance, render, pipeline")
    benches = bench.add_subparsers(dest="what", required=True, metavar="WHAT")
    last = argparse.ArgumentParser(add_help=False)
    last.add_argument("--json", action="store_true", help="the last line is one JSON object")

    quality = benches.add_parser(
        "quality", parents=[last], help="fixed prompts and seeds, judged by a classifier of true renders"
    )
    quality.add_argument("--prompt", action="append", help="instead of the fixed twelve; may be repeated")
    quality.add_argument("--seeds", type=int, default=3, help="0 to this many (default 3)")
    quality.add_argument("--method", action="append", choices=("initial", "sds", "vsd"), help="default: all three")
    quality.add_argument("--preset", default="demo")
    quality.set_defaults(run=_quality)

    cost = benches.add_parser("guidance", parents=[last], help="what a VSD iteration costs over its bare network calls")
    cost.add_argument("--repetitions", type=int, default=15, help="of every call, interleaved (default 15)")
    cost.set_defaults(run=_guidance)

    drawing = benches.add_parser(
        "render", parents=[last], help="the radiance field's kernels over PyTorch's and numba's; about three minutes"
    )
    drawing.add_argument("--repetitions", type=int, default=5, help="of every call (default 5)")
    drawing.set_defaults(run=_render)

    pipeline = benches.add_parser(
        "pipeline", parents=[last], help="what Prefect, DVC and MLflow add to the stages; about a quarter of an hour"
    )
    pipeline.add_argument("--only", action="append", choices=PIPELINE, help="may be repeated (default: all)")
    pipeline.set_defaults(run=_pipeline)


def _quality(options: argparse.Namespace) -> None:
    from flows.benchmarks import quality
    from tasks.runtime.project import Project

    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: at least one")
    rows = quality.quality(
        Project.find(),
        prompts=options.prompt or list(quality.PROMPTS),
        seeds=options.seeds,
        methods=options.method or list(quality.METHODS),
        preset=options.preset,
    )
    _show(options, quality, rows)


def _guidance(options: argparse.Namespace) -> None:
    from flows.benchmarks import guidance as bench_guidance
    from tasks.runtime.project import Project

    if not 3 <= options.repetitions <= 1000:
        raise InputError("--repetitions goes from 3 to 1000")
    _show(options, bench_guidance, bench_guidance.bench(Project.find(), options.repetitions))


def _render(options: argparse.Namespace) -> None:
    machine.threads(1)
    from flows.benchmarks import render as bench_render

    if not 1 <= options.repetitions <= 1000:
        raise InputError("--repetitions goes from 1 to 1000")
    _show(options, bench_render, bench_render.bench(options.repetitions))


def _pipeline(options: argparse.Namespace) -> None:
    from flows.benchmarks import pipeline as bench_pipeline
    from tasks.runtime.console import Console
    from tasks.runtime.project import Project

    console = Console("bench pipeline")
    _show(options, bench_pipeline, bench_pipeline.bench(Project.find(), options.only or list(PIPELINE), console.note))


def _show(options: argparse.Namespace, of, found) -> None:
    """The table of what a bench found, and its JSON where that was asked for."""
    print(of.table(found))
    if options.json:
        print(of.as_json(found))
