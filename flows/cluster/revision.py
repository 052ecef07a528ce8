"""Revision of the project that a sweep sends to its workers."""

import shutil
import tempfile
from pathlib import Path

from flows.cluster.git import REMOTE, GitFailed, git, revision_ref, transfer, url
from prolific_core.errors import InputError
from tasks.runtime.project import Project

#: Files that git does not track yet are sent too if they are in one of these folders.
FOLDERS = ("prompts", "presets", "systems", "prolific_core", "tasks", "flows", "priors")


def publish(project: Project) -> str:
    """Push the project as it is now, and return the commit that workers check out.

    This is the current commit if nothing has changed since. Otherwise it is a commit beside the current branch, which
    depends on the files only: the same files give the same commit. Neither the branch nor the index is changed.
    """
    url(project.root)
    commit = snapshot(project.root)
    transfer(project.root, "push", "--quiet", "--force", REMOTE, f"{commit}:{revision_ref(commit)}")
    return commit


def snapshot(root: Path) -> str:
    """Return a commit with all tracked files, and all files in `FOLDERS` that git does not ignore, as they are now."""
    try:
        head = git(root, "rev-parse", "--verify", "HEAD^{commit}")
    except GitFailed:
        raise InputError("this project has no git commit yet; make one: git add . && git commit") from None
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        current = Path(git(root, "rev-parse", "--git-path", "index"))
        if (root / current).is_file():
            shutil.copyfile(root / current, index)  # keeps the files' stamps, so that git need not read them all
        own = {"GIT_INDEX_FILE": str(index)}
        git(root, "add", "--update", "--", ".", **own)
        git(root, "add", "--all", "--", *(name for name in FOLDERS if (root / name).is_dir()), **own)
        tree = git(root, "write-tree", **own)
    if tree == git(root, "rev-parse", f"{head}^{{tree}}"):
        return head
    return commit_tree(root, tree, head, "Files of a sweep", git(root, "show", "--no-patch", "--format=%cI", head))


def commit_tree(root: Path, tree: str, parent: str | None, message: str, date: str = "") -> str:
    """Return a new commit, whose author is Prolific, because a worker's machine need not know its user.

    If `date` is empty, it is the current time. Without a parent, the commit stands alone.
    """
    author = {"NAME": "Prolific", "EMAIL": "prolific@localhost", "DATE": date}
    identity = {f"GIT_{role}_{name}": value for role in ("AUTHOR", "COMMITTER") for name, value in author.items()}
    return git(root, "commit-tree", tree, *(["-p", parent] if parent else []), "-m", message, **identity)
