"""Run a prompt's real stages and kill each at random moments. This is a script so that it can fork without threads.

    python -m tests.support.killed_stages REFERENCE KILLED ID KILLS SEED

REFERENCE and KILLED are two copies of one project; nothing is killed in the first one. Importing torch and diffusers
takes longer than a tiny stage, so they are imported once, and every attempt is a fork of that process.
Prints one JSON object with the number of kills by stage and the number of attempts that resumed from a checkpoint.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tasks.runtime import machine


def fork(project, stage: str, id: str) -> int:
    """Run a stage in a forked process and return its id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            from tasks.runtime.stage import run

            os.environ["PROLIFIC_ROOT"] = str(project.root)
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            run(project, stage, id)
            status = 0
        except BaseException as error:  # the fork must not continue with the code of its parent
            print(f"{stage}: {type(error).__name__}: {error}", file=sys.stdout, flush=True)
        finally:
            os._exit(status)
    return pid


def main(reference: str, killed: str, id: str, kills: int, seed: int) -> None:
    machine.disable_telemetry()
    machine.threads(1)
    import diffusers.models  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.clip  # noqa: F401

    from prolific_core import checkpoint
    from prolific_core.prior.latent_diffusion import LatentDiffusion  # noqa: F401
    from tasks import evaluate, export, geometry, initialise, nerf, texture  # noqa: F401
    from tasks.runtime.project import STAGES, Project

    seconds = {}
    for stage in STAGES:
        began = time.monotonic()
        assert end_of(fork(Project(Path(reference)), stage, id)) == 0, f"{stage} failed"
        seconds[stage] = time.monotonic() - began

    project, chance = Project(Path(killed)), random.Random(seed)
    # Every stage is killed at least once, and longer ones more often.
    plan = [*STAGES, *chance.choices(list(STAGES), list(seconds.values()), k=kills)][:kills]
    resumed = 0
    for stage in STAGES:
        wanted, ended = plan.count(stage), False
        while wanted or not ended:
            saved = list(project.stage_state(id, stage).glob("checkpoints/*/*.safetensors"))
            for path in saved:
                checkpoint.load(path)  # raises if a kill has left a partial file
            resumed += bool(saved)
            pid, ended = fork(project, stage, id), True
            if wanted:
                time.sleep(chance.random() * seconds[stage])
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    os.kill(pid, signal.SIGKILL)
                    end_of(pid)
                    wanted, ended = wanted - 1, False
            else:
                assert end_of(pid) == 0, f"{stage} failed after kills"
    print(json.dumps({"kills": {stage: plan.count(stage) for stage in STAGES}, "resumed": resumed}))


def end_of(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
