"""`prolific`, the console command. Nothing heavy is imported before a command needs it."""

import argparse
import json
import signal
import sys

from flows.cli import bench, prompts, sweep
from prolific_core.discovery import guidance_methods
from prolific_core.errors import InputError
from tasks.runtime import machine
from tasks.runtime.failures import reported

EXAMPLES = """\
  prolific generate "a red mug"            a model, its turntable and a report, from one sentence
  prolific generate "a red mug" --seed 1   another one
  prolific prompts import animals.txt      many prompts, and a set of them
  prolific sweep animals                   all of a set (without a name: every prompt)
  prolific ui                              the runs, in MLflow
"""


def main(arguments: list[str] | None = None) -> int:
    machine.disable_telemetry()
    options = _parser().parse_args(arguments)
    # Ended politely, Python's own clean-up runs; without it Prefect's embedded server lives on.
    signal.signal(signal.SIGTERM, _stop)
    return reported(lambda: options.run(options))


def _stop(*_) -> None:
    print("prolific: stopped", file=sys.stderr, flush=True)
    sys.exit(143)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prolific",
        description="One sentence in, a textured 3D model out, by variational score distillation.",
        epilog="examples:\n" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="make a model from a sentence")
    generate.add_argument("text", help='what to make, for example "a red mug"')
    generate.add_argument("--preset", default="demo", help="a file in presets/: tiny, demo (default) or paper")
    generate.add_argument("--seed", type=int, default=0, help="another seed, another model (default 0)")
    generate.add_argument("--particles", type=int, default=1, help="models made together (default 1)")
    generate.add_argument(
        "--method", choices=guidance_methods(), default="vsd", help="csd, sds: other methods, to compare"
    )
    generate.add_argument("--id", help="file it under this name (default: made from the sentence)")
    generate.add_argument("--json", action="store_true", help="the last line is one JSON object")
    generate.set_defaults(run=_generate)

    prompts.add_to(commands)

    stage = commands.add_parser("stage", help="run one stage of a prompt on file, now, without DVC")
    stage.add_argument("name", help="initialise, nerf, geometry, texture, export or evaluate")
    stage.add_argument("id", help="the prompt's name in prompts/")
    stage.set_defaults(run=_stage)

    sweep.add_to(commands)

    prior = commands.add_parser("prior", help="the 2D model on its own")
    actions = prior.add_subparsers(dest="action", required=True, metavar="ACTION")
    sample = actions.add_parser("sample", help="pictures of a sentence, as one PNG")
    sample.add_argument("text")
    sample.add_argument("-n", type=int, default=16, help="how many (default 16)")
    sample.add_argument("--out", default="samples.png", help="the file (default samples.png)")
    sample.add_argument("--scale", type=float, default=3.0, help="classifier-free guidance (default 3)")
    sample.add_argument("--steps", type=int, default=30, help="of DDIM (default 30)")
    sample.add_argument("--seed", type=int, default=0)
    sample.set_defaults(run=_sample)

    check = actions.add_parser("check", help="how well it knows its world: numbers beside their goals, in some minutes")
    check.add_argument("--prior", help="a folder with a model of the Toybox's world (default: the packaged one)")
    check.add_argument("--samples", type=int, default=1000, help="how many pictures are judged (default 1000)")
    check.add_argument("--json", action="store_true", help="the last line is one JSON object")
    check.set_defaults(run=_check)

    train = actions.add_parser("train", help="train one of your own, or go on with it: hours")
    train.add_argument("name", nargs="?", default="toybox", help="a folder in priors/ (default toybox)")
    train.set_defaults(run=_train)

    bench.add_to(commands)

    study = commands.add_parser("study", help="the paper's experiment in 2D: sampling, SDS and VSD on the same prior")
    size = study.add_mutually_exclusive_group()
    size.add_argument("--full", dest="form", action="store_const", const="full", help="8 prompts x 16 particles: hours")
    size.add_argument(
        "--quick", dest="form", action="store_const", const="quick", help="2 prompts x 2 particles: minutes"
    )
    study.add_argument("--prompt", action="append", help="instead of the fixed ones; may be repeated")
    study.add_argument(
        "--method",
        action="append",
        help='for example "vsd 7.5"; may be repeated (default: the eight of the comparison)',
    )
    study.add_argument("--particles", type=int, help="pictures per prompt and method")
    study.add_argument("--steps", type=int, help="of optimisation, per particle")
    study.add_argument(
        "--pixels", action="store_true", help="optimise pixels, through the encoder, in place of latents"
    )
    study.add_argument("--out", default="study", help="the folder for study.md, study.json, study.png (default study)")
    study.add_argument("--json", action="store_true", help="the last line is one JSON object, a row per method")
    study.set_defaults(run=_study, form="default")

    doctor = commands.add_parser("doctor", help="versions, device, kernels and prior: what is used, and why")
    doctor.set_defaults(run=_doctor)

    ui = commands.add_parser("ui", help="browse the runs in MLflow, on this machine only")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(run=_ui)
    return parser


def _generate(options: argparse.Namespace) -> None:
    from flows.prompt_store import create
    from tasks.runtime.project import Project

    project = Project.find()
    prompt = create.file_prompt(
        project,
        options.text,
        preset=options.preset,
        seed=options.seed,
        particles=options.particles,
        method=options.method,
        id=options.id,
    )
    create.warn_of_unknown_words(project, prompt)

    from flows.generate import generate

    result = generate(project, prompt.id)
    if options.json:
        print(result.json(), flush=True)
        return
    print(f"model      {result.glb}")
    print(f"turntable  {result.turntable}")
    print(f"report     {result.report}")
    if result.page:
        print(f"MLflow     prolific ui, then {result.page}")


def _stage(options: argparse.Namespace) -> int:
    from tasks.runtime.stage import main as run

    return run([options.name, options.id])


def _sample(options: argparse.Namespace) -> None:
    from pathlib import Path

    from flows.cli.prior import sample
    from tasks.runtime.project import Project

    if not 1 <= options.n <= 1024 or not 1 <= options.steps <= 1000:
        raise InputError("-n goes from 1 to 1024 and --steps from 1 to 1000")
    settings = {name: getattr(options, name) for name in ("scale", "seed", "steps")}
    print(sample(Project.find(), options.text, count=options.n, out=Path(options.out), **settings))


def _check(options: argparse.Namespace) -> None:
    from flows.cli import prior
    from tasks.runtime.project import Project

    if options.samples < 40:
        raise InputError(f"--samples {options.samples}: at least 40, or the shares say nothing")
    numbers = prior.check(Project.find(), options.prior, options.samples)
    print(prior.table(numbers))
    if options.json:
        print(json.dumps(numbers))


def _train(options: argparse.Namespace) -> None:
    from flows.train_prior import train
    from tasks.runtime.project import Project

    print(train(Project.find(), options.name))


def _study(options: argparse.Namespace) -> None:
    from pathlib import Path

    from flows.benchmarks import study
    from tasks.runtime.project import Project

    for name in ("particles", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: at least 1")
    settings = {name: getattr(options, name) for name in ("particles", "steps")} | {"pixels": options.pixels or None}
    out = Path(options.out).resolve()
    rows = study.run(Project.find(), options.form, texts=options.prompt, methods=options.method, out=out, **settings)
    print(study.table(rows))
    print(f"figure     {out / 'study.png'}")
    if options.json:
        print(study.as_json(rows))


def _doctor(options: argparse.Namespace) -> None:
    from flows.cli.doctor import doctor
    from tasks.runtime.project import Project

    doctor(Project.find())


def _ui(options: argparse.Namespace) -> None:
    from flows.cli.ui import serve
    from tasks.runtime.project import Project

    serve(Project.find(), options.port)


if __name__ == "__main__":
    sys.exit(main())
