"""Hand-over of a prompt between workers, and from a worker to the head.

What a worker has made goes to DVC's remote. The small files that describe it, which are the prompt's pipeline, its
dvc.lock and the description of its state, are a commit on a git reference of the prompt's own. The commit's message
holds the metrics, so that a head can read them without fetching anything else.

Git was chosen over a second set of objects on the DVC remote because it already has what is needed: a reference changes
at once or not at all, and only if it is still what the pusher has seen (`--force-with-lease`), so that of two workers
with one prompt the second notices.
"""

import contextlib
import json
import os
import socket
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.cluster import dvc_transfer
from flows.cluster.git import REMOTE, GitFailed, Rejected, file_of, git, prompt_ref, transfer
from flows.cluster.revision import commit_tree
from flows.reporting import report
from prolific_core.files import read_json, write_atomically
from tasks.runtime import records
from tasks.runtime.project import STAGES, Project

FILES = ("prompt.yaml", "dvc.yaml", "dvc.lock", f"{dvc_transfer.STATE}.dvc")


@dataclass(frozen=True)
class Message:
    """Description of a prompt's state.

    Attributes:
        id: The prompt's id.
        revision: The revision that the worker had checked out.
        complete: Whether all stages are up to date with it.
        stages: Number of finished stages.
        steps: Number of finished steps of the interrupted stage.
        seconds: Sum over the stages, or None if the time of one is not known.
        metrics: Metrics of the finished model.
        worker: Name of the worker's machine.
    """

    id: str
    revision: str
    complete: bool
    stages: int
    steps: int = 0
    seconds: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    worker: str = ""


def describe(project: Project, id: str, revision: str, complete: bool) -> Message:
    """Return the message for a prompt's outputs and records as they are now."""
    paths = [project.output(id, stage) / "metrics.json" for stage, spec in STAGES.items() if spec.metrics]
    return Message(
        id,
        revision,
        complete,
        project.finished_stages(id),
        _steps(project, id),
        report.model_seconds(project, id) if complete else None,
        {name: value for path in paths for name, value in read_json(path).items()},
        socket.gethostname(),
    )


def _steps(project: Project, id: str) -> int:
    """Return the number of finished steps of the first unfinished stage."""
    for stage in STAGES:
        if not (project.output(id, stage) / "manifest.json").is_file():
            found, _ = records.read(project.stage_state(id, stage) / "records.jsonl")
            return max((record["step"] for record in found if record["kind"] == "progress"), default=0)
    return 0


def send(project: Project, id: str, revision: str, seen: str, complete: bool) -> str:
    """Push a prompt's outputs, state and small files, and return the new commit of its reference.

    Args:
        project: The worker's clone.
        id: The prompt's id.
        revision: The revision that is checked out.
        seen: The commit of the prompt's reference that this worker has seen last, or an empty string.
        complete: Whether all stages are up to date.

    Returns:
        The new commit, or that of another worker if it has handed over the complete prompt in the meantime.
    """
    dvc_transfer.push(project, [id])
    commit = make_commit(project, id, revision, complete)
    while True:
        lease = f"--force-with-lease={prompt_ref(id)}:{seen}"
        try:
            transfer(project.root, "push", "--quiet", lease, REMOTE, f"{commit}:{prompt_ref(id)}")
            return commit
        except Rejected:  # another worker has handed over the prompt
            seen = fetch(project, id)
            if seen and is_complete(project, seen, revision):
                return seen


def make_commit(project: Project, id: str, revision: str, complete: bool) -> str:
    """Return a commit with a prompt's small files as they are now, and the message that describes them.

    It holds no other file and has no parent, so that its size does not grow with the number of prompts.
    """
    root, folder = project.root, f"prompts/{id}"
    with tempfile.TemporaryDirectory() as temporary:
        own = {"GIT_INDEX_FILE": os.path.join(temporary, "index")}
        present = [f"{folder}/{name}" for name in FILES if (root / folder / name).is_file()]
        git(root, "add", "--force", "--", *present, **own)
        tree = git(root, "write-tree", **own)
    message = describe(project, id, revision, complete)
    title = f"{id}: {message.stages} of {len(STAGES)} stages"
    return commit_tree(root, tree, None, f"{title}\n\n{json.dumps(asdict(message), ensure_ascii=False)}")


def fetch(project: Project, id: str) -> str:
    """Fetch a prompt's reference and return its commit, or an empty string if the remote has none."""
    return fetch_all(project, [id]).get(id, "")


def fetch_all(project: Project, ids: list[str]) -> dict[str, str]:
    """Fetch the references of several prompts and return the commits of those that exist."""
    names = {prompt_ref(id): id for id in ids}
    there = transfer(project.root, "ls-remote", REMOTE, *names).splitlines()
    found = {names[name]: commit for commit, _, name in (line.partition("\t") for line in there) if name in names}
    for start in range(0, len(found), 500):
        part = [f"+{prompt_ref(id)}:{prompt_ref(id)}" for id in list(found)[start : start + 500]]
        transfer(project.root, "fetch", "--quiet", "--depth=1" if _is_shallow(project) else "--no-tags", REMOTE, *part)
    return found


def _is_shallow(project: Project) -> bool:
    return git(project.root, "rev-parse", "--is-shallow-repository") == "true"


def read(project: Project, commit: str) -> Message | None:
    """Return the message of a commit, or None if a worker has not written it."""
    with contextlib.suppress(GitFailed, ValueError, TypeError):
        return Message(**json.loads(git(project.root, "show", "--no-patch", "--format=%b", commit)))
    return None


def is_complete(project: Project, commit: str, revision: str) -> bool:
    message = read(project, commit)
    return message is not None and message.complete and message.revision == revision


def write_files(project: Project, id: str, commit: str, names: tuple[str, ...] = FILES) -> None:
    """Write a prompt's small files from a commit to the clone."""
    for name in names:
        content = file_of(project.root, commit, f"prompts/{id}/{name}")
        path: Path = project.prompt_folder(id) / name
        if content is not None and not (path.is_file() and path.read_bytes() == content):
            write_atomically(path, content)
