"""DVC's own commands on a made prompt: metrics, plots, parameters, experiments, and a pull into a fresh clone.

The commands are plain `dvc`, as a user types them in the root of the project.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import STAGES, Project
from tests.conftest import FAKE, Clone, clone_with_fakes
from tests.support import browser

PROMPT = "prompts/a-red-mug/dvc.yaml"
OUTPUT = "runs/a-red-mug"
# A quality that depends on a parameter, curves, and an image that a browser can show.
STUB = FAKE.replace('"quality": 0.5', '"quality": stage.config.nerf.steps / 1000').replace(
    "loss=1 / step", "loss=1 / step, opacity=0.5"
)
PICTURE = """
    if stage.name == "evaluate":
        from PIL import Image
        Image.new("RGB", (40, 20), "red").save(stage.output / "contact.png")
    return"""


def git(repo: Clone, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=repo.root, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout


def dvc(repo: Clone, *arguments: str, status: int = 0) -> str:
    """Run `dvc` as in an 80-column terminal with an activated .venv, and return its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = repo.run("dvc", *arguments, COLUMNS="80", PATH=path)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def quality(repo: Clone, stage: str = "evaluate") -> float:
    return json.loads((repo.root / OUTPUT / stage / "metrics.json").read_text())["quality"]


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Clone:
    """A clone whose prompt has been made and committed. Each test leaves it as it was committed."""
    repo = clone_with_fakes(tmp_path_factory.mktemp("dvc") / "a clone")
    for name in STAGES:
        (repo.root / "tasks" / f"{name}.py").write_text(STUB.replace("\n    return", PICTURE))
    with (repo.root / ".gitignore").open("a") as file:
        file.write("/ran.log\n")
    assert repo.repro() == list(STAGES)
    git(repo, "config", "user.name", "Test")
    git(repo, "config", "user.email", "test@example.org")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "A red mug")
    assert quality(repo) == 0.3
    return repo


@pytest.fixture
def restored(repo):
    """The clone, whose files and outputs are restored after an experiment."""
    (repo.root / "ran.log").unlink(missing_ok=True)
    yield repo
    git(repo, "checkout", "--quiet", ".")
    dvc(repo, "checkout", "--quiet")


def test_a_pull_into_a_fresh_clone_restores_everything(repo, tmp_path):
    """Neither the prior nor any other prompt was made, so their pipelines must not make the pull fail."""
    git(repo, "clone", "--quiet", ".", str(tmp_path / "fresh"))
    remote = str(tmp_path / "remote")
    dvc(repo, "remote", "add", "--local", "--default", "store", remote)
    dvc(repo, "push")
    fresh = Clone(tmp_path / "fresh")
    dvc(fresh, "remote", "add", "--local", "--default", "store", remote)
    dvc(fresh, "pull")
    assert fresh.repro() == [] and quality(fresh) == 0.3
    assert (fresh.root / OUTPUT / "export/mesh.glb").read_bytes() == b"mesh.glb"


def test_metrics_plots_and_the_graph_of_one_prompt(repo, tmp_path):
    shown = json.loads(dvc(repo, "metrics", "show", "--json"))[""]["data"]
    assert shown == {f"{OUTPUT}/{stage}/metrics.json": {"data": {"quality": 0.3}} for stage in ("export", "evaluate")}
    graph = dvc(repo, "dag", "--outs", PROMPT)
    assert all(f"{OUTPUT}/{stage} " in graph for stage in STAGES)
    assert max(map(len, graph.splitlines())) <= 80
    dvc(repo, "plots", "show", "--out", str(tmp_path / "plots"))
    page = tmp_path / "plots" / "index.html"
    assert 'src="http' not in page.read_text()
    if browser.FOUND is None:
        pytest.skip("the page is not opened: no Chromium (apt install chromium)")
    with browser.Browser(tmp_path / "profile", height=1200) as opened:
        opened.open(page.as_uri())
        # DVC loads its scripts from the internet, which this browser cannot reach.
        opened.until("document.querySelectorAll('.vega-embed canvas').length == 5")
        assert opened.run("document.images.length == 1 && document.images[0].naturalWidth == 40")


def test_an_experiment_with_another_number(restored, tmp_path):
    repo = restored
    dvc(repo, "exp", "run", "--name", "short", "--set-param", "nerf.steps=50", PROMPT)
    assert repo.ran() == list(STAGES)[1:] and quality(repo) == 0.05
    changed = [line for line in git(repo, "diff", "--unified=0", "params.yaml").splitlines() if line[0] in "+-"]
    assert changed[2:] == ["-  steps: 300", "+  steps: 50"]
    difference = json.loads(dvc(repo, "metrics", "diff", "--json"))[f"{OUTPUT}/evaluate/metrics.json"]["quality"]
    assert (difference["old"], difference["new"]) == (0.3, 0.05)
    parameters = json.loads(dvc(repo, "params", "diff", "--json"))
    assert parameters == {"params.yaml": {"nerf.steps": {"old": 300, "new": 50, "diff": -250}}}
    dvc(repo, "plots", "diff", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots" / "index.html").read_text()
    assert '"rev": "HEAD"' in page and '"rev": "workspace"' in page
    rows = dvc(repo, "exp", "show", "--csv", "--only-changed").splitlines()
    header, *values = (row.split(",") for row in rows)
    row = next(dict(zip(header, value)) for value in values if value[0] == "short")
    assert row["nerf.steps"] == "50" and row[f"{OUTPUT}/evaluate/metrics.json:quality"] == "0.05"


def test_experiments_of_one_prompt_and_one_target_are_queued(restored):
    repo = restored
    number = "prompts/a-red-mug/prompt.yaml:++nerf.steps=40"
    dvc(repo, "exp", "run", "--queue", "--name", "shorter", "--set-param", number, f"{PROMPT}:nerf")
    dvc(repo, "exp", "run", "--run-all")
    assert git(repo, "status", "--short") == "" and repo.ran() == []  # it ran in a folder of its own
    dvc(repo, "exp", "apply", "shorter")
    assert quality(repo, "nerf") == 0.04 and quality(repo) == 0.3
    assert Project(repo.root).prompt("a-red-mug").sections["nerf"] == {"steps": 40}


def test_only_the_files_of_a_method_and_the_parameters_with_an_effect_are_dependencies(restored):
    repo, project = restored, Project(restored.root)
    guidance = repo.root / "prolific_core" / "guidance"
    (guidance / "other.py").write_text('"""Another method."""\n')
    (guidance / "combine" / "another.py").write_text('"""Another composition."""\n')
    with (guidance / "csd.py").open("a") as file:
        file.write("# edited\n")
    repo.edit("prompts/a-red-mug/prompt.yaml", "export: {}", "export: {faces: 500}")
    pipeline.refresh(project, project.prompt("a-red-mug"))
    assert repo.repro() == ["export", "evaluate"]
    repo.edit("params.yaml", "faces: 20000", "faces: 30000")  # overridden by the prompt
    assert repo.repro() == []
    # DVC has read dvc.yaml before it changes the method. The stage updates the file for the next run.
    dvc(repo, "exp", "run", "--set-param", "nerf.guidance.method=csd", f"{PROMPT}:nerf")
    written = (repo.root / PROMPT).read_text()
    assert "prolific_core/guidance/csd.py" in written and repo.ran() == ["nerf"]
    target = f"{PROMPT}:nerf"
    assert repo.repro(target) == ["nerf"] and repo.repro(target) == []
    with (guidance / "csd.py").open("a") as file:
        file.write("# edited again\n")
    assert repo.repro(target) == ["nerf"]
    for name in ("other.py", "combine/another.py"):
        (guidance / name).unlink()
