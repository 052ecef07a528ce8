"""`prolific`, the console command. Nothing heavy is imported before a command needs it."""

import argparse
import sys

from tasks import machine
from tasks.failures import reported

EXAMPLES = """\
  prolific generate "a red mug"            a model, its turntable and a report, from one sentence
  prolific generate "a red mug" --seed 1   another one
  prolific sweep                           every prompt on file
  prolific ui                              the runs, in MLflow
"""


def main(arguments: list[str] | None = None) -> int:
    machine.quiet()
    options = _parser().parse_args(arguments)
    return reported(lambda: options.run(options))


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
    generate.add_argument("--method", choices=("vsd", "sds"), default="vsd", help="sds: the older method, to compare")
    generate.add_argument("--id", help="file it under this name (default: made from the sentence)")
    generate.add_argument("--json", action="store_true", help="the last line is one JSON object")
    generate.set_defaults(run=_generate)

    stage = commands.add_parser("stage", help="run one stage of a prompt on file, now, without DVC")
    stage.add_argument("name", help="initialise, nerf, geometry, texture, export or evaluate")
    stage.add_argument("id", help="the prompt's name in prompts/")
    stage.set_defaults(run=_stage)

    sweep = commands.add_parser("sweep", help="bring prompts on file up to date, one after another")
    sweep.add_argument("ids", nargs="*", help="names in prompts/ (default: all)")
    sweep.set_defaults(run=_sweep)

    doctor = commands.add_parser("doctor", help="versions, device, kernels and prior: what is used, and why")
    doctor.set_defaults(run=_doctor)

    ui = commands.add_parser("ui", help="browse the runs in MLflow, on this machine only")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(run=_ui)
    return parser


def _generate(options: argparse.Namespace) -> None:
    from flows import new
    from tasks.project import Project

    project = Project.find()
    prompt = new.file_prompt(
        project,
        options.text,
        preset=options.preset,
        seed=options.seed,
        particles=options.particles,
        method=options.method,
        id=options.id,
    )
    new.warn_of_unknown_words(project, prompt)

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
    from tasks.stage import main as run

    return run([options.name, options.id])


def _sweep(options: argparse.Namespace) -> int:
    from flows.sweep import sweep
    from tasks.project import Project

    return sweep(Project.find(), options.ids)


def _doctor(options: argparse.Namespace) -> None:
    from flows.doctor import doctor
    from tasks.project import Project

    doctor(Project.find())


def _ui(options: argparse.Namespace) -> None:
    from flows.ui import serve
    from tasks.project import Project

    serve(Project.find(), options.port)


if __name__ == "__main__":
    sys.exit(main())
