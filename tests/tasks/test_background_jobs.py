"""Jobs that a script starts in the background, whose processes inherit that SIGINT is ignored."""

import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_stage_can_be_interrupted(clone):
    """The flow interrupts the process group of a stage, also if the flow was started in the background."""
    clone.trouble("initialise", "import time; time.sleep(100)")
    command = [sys.executable, "-m", "tasks.dvc_pipeline.cli", "repro", "prompts/a-red-mug/dvc.yaml"]
    running = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        cwd=clone.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        while not clone.ran():
            assert time.monotonic() < end and running.poll() is None
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        running.communicate(timeout=30)
        assert running.returncode != 0
        assert not (clone.root / "runs" / "a-red-mug" / "initialise").exists()
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
