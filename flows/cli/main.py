"""The console command `prolific`.

Each command imports its dependencies when it runs, so that `prolific --help` does not load heavy libraries.
"""

import os
import signal
import sys
from enum import StrEnum
from typing import Annotated

import typer

from flows.cli import bench, compare, doctor, prior, prompts, report, server, study, sweep, ui, verify
from flows.cli.options import (
    PRESET_HELP,
    SYSTEM_HELP,
    Force,
    Json,
    PromptText,
    Settings,
    complete_id,
    complete_preset,
    complete_system,
    join_words,
)
from prolific_core.discovery import guidance_methods
from prolific_core.errors import InputError
from tasks.runtime import machine
from tasks.runtime.failures import STOPPED, reported

Method = StrEnum("Method", guidance_methods())
TERMINATED = 143  # exit status after SIGTERM

app = typer.Typer(
    help="""Turn a sentence into a textured 3D model by variational score distillation.

Examples:
$ prolific generate "a red mug"             # a model, a video and a report
$ prolific generate "a red mug" --seed 1    # another model of the same prompt
$ prolific prompts import animals.txt       # add many prompts as a set
$ prolific sweep animals                    # make the models of the whole set
$ prolific ui                               # browse all runs in MLflow""",
    epilog="Exit status: 0 if all went well, 1 for a failure, 2 for unusable input, 130 after Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status, which is 2 for invalid input and 1 for any other failure."""
    machine.disable_telemetry()
    # If the caller has closed these streams, Python sets them to None, and any library that prints would fail.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    # By default, SIGTERM would skip Python's exit handlers, which stop the Prefect server.
    signal.signal(signal.SIGTERM, _stop)
    try:
        status = reported(lambda: _run(arguments))
    except SystemExit as end:
        if end.code != TERMINATED:
            raise
        print(STOPPED, file=sys.stderr, flush=True)  # now that no progress bar is shown any more
        status = TERMINATED
    if machine.skip_exit_handlers:
        machine.exit_now(status)
    return status


def _run(arguments: list[str] | None) -> int | None:
    try:
        status = app(arguments, prog_name="prolific", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        message = error.format_message().replace("Value error, ", "")  # pydantic adds this prefix
        if not message:  # The command had no arguments, so its help has been printed.
            return error.exit_code
        raise InputError(message.rstrip(".") + hint) from None
    if status == 130:  # Typer returns this status for Ctrl-C, but `reported` expects the exception.
        raise KeyboardInterrupt
    return status


def _stop(*_) -> None:
    sys.exit(TERMINATED)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"prolific {version('prolific')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def generate(
    text: PromptText,
    preset: Annotated[str, typer.Option(metavar="NAME", help=PRESET_HELP, autocompletion=complete_preset)] = "demo",
    system: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{SYSTEM_HELP} By default, those of the preset are used.",
            autocompletion=complete_system,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The random seed. A different seed gives a different model.")] = 0,
    particles: Annotated[int, typer.Option(help="The number of models that are optimised together.")] = 1,
    method: Annotated[
        Method | None, typer.Option(help="The guidance method. The default is vsd or, if given, that of the system.")
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The id of the prompt. By default, it is derived from the text."),
    ] = None,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a textured 3D model, a turntable video and a report from a sentence.

    Finished stages are not run again, and an interrupted run continues where it stopped.

    Examples:
    $ prolific generate "a red mug"
    $ prolific generate a red mug --preset tiny --seed 1
    $ prolific generate "a red mug" --system dreamfusion
    $ prolific generate "a red mug" --set nerf.steps=500 --id a-longer-mug
    $ prolific generate --method sds -- "-- a prompt that begins with dashes"
    """
    if system is not None and method is not None:
        raise InputError(
            "--method and --system cannot be used together, because a system chooses the method of each stage; "
            f"to change one of them: --set nerf.guidance.method={method.value}"
        )
    from flows.orchestration import preflight, prompt_run
    from flows.prompt_store import create, vocabulary
    from tasks.runtime.project import Project

    project = Project.find()
    own = create.settings(settings or [])
    prompt = create.file_prompt(
        project,
        join_words(text),
        preset=preset,
        system=system or "",
        seed=seed,
        particles=particles,
        method=method.value if method else "vsd",
        id=id,
        own=own,
        accept=vocabulary.acceptance(project, force),
    )
    preflight.check(project, prompt.id)  # reports mistakes before a server starts
    result = prompt_run.finished(project, prompt.id) or _run_flow(project, prompt.id)
    if json:
        print(result.json(), flush=True)
        return
    print(f"model      {result.glb}")
    print(f"turntable  {result.turntable}")
    print(f"report     {result.report}")
    if result.seconds is not None:
        print(f"time       {result.seconds:.0f} s, the sum over the stages")
    if result.page:
        print(f"MLflow     prolific ui, then {result.page}")


def _run_flow(project, id: str):
    from flows.orchestration import prefect_runtime
    from tasks.runtime.console import announce

    announce(f"making {id}")
    prefect_runtime.set_up(project)
    from flows.generate import generate

    return prefect_runtime.run_flow(generate, id)


def stage(
    name: Annotated[str, typer.Argument(help="The stage: initialise, nerf, geometry, texture, export or evaluate.")],
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the prompt.", autocompletion=complete_id)],
) -> int:
    """Run one stage of an existing prompt in this process, without DVC.

    The stages that it depends on must have finished.

    Examples:
    $ prolific stage nerf a-red-mug
    """
    from tasks.__main__ import main as run

    return run([name, id])


# The help lists the commands in the order of the lines below.
_MODELS, _SETS, _EXPERIMENTS, _MACHINE = "One model", "Many models", "Experiments", "This machine"
app.command(rich_help_panel=_MODELS)(generate)
app.command(rich_help_panel=_MODELS)(stage)
app.command(rich_help_panel=_MODELS)(report.report)
app.command(rich_help_panel=_SETS)(sweep.sweep)
app.command(rich_help_panel=_SETS)(server.server)
app.command(rich_help_panel=_SETS)(sweep.worker)
app.command(rich_help_panel=_SETS)(sweep.deploy)
app.add_typer(prompts.app, name="prompts", rich_help_panel=_SETS)
app.command(rich_help_panel=_EXPERIMENTS)(compare.compare)
app.command(rich_help_panel=_EXPERIMENTS)(study.study)
app.add_typer(prior.app, name="prior", rich_help_panel=_EXPERIMENTS)
app.add_typer(bench.app, name="bench", rich_help_panel=_EXPERIMENTS)
app.command(rich_help_panel=_MACHINE)(ui.ui)
app.command(rich_help_panel=_MACHINE)(verify.verify)
app.command(rich_help_panel=_MACHINE)(doctor.doctor)


if __name__ == "__main__":
    sys.exit(main())
