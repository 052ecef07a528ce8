"""Every request to Prefect's server fails once, or from then on, and each stage still runs exactly once."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.faulty_prefect import STAGES

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("duration", ["once", "lasting"])
def test_each_stage_runs_once(tmp_path, prefect_server, duration, moment):
    script = [sys.executable, "-m", "tests.support.faulty_prefect", str(tmp_path), duration, moment]
    environment = {**os.environ, **prefect_server}
    done = subprocess.run(
        script, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) > 5 and [run["reached"] for run in runs] == [True] * (len(runs) - 1) + [False]
    for run in runs:
        assert run.get("returned") == STAGES, run
        assert (tmp_path / str(run["n"])).read_text().split() == STAGES, run
