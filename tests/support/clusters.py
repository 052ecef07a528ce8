"""Projects that share nothing but a bare git repository and a DVC remote."""

import subprocess
from pathlib import Path


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A user", "-c", "user.email=user@localhost"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_remotes(root: Path, folder: Path, dvc_url: str = "", **settings: str) -> Path:
    """Commit a project and give it a git remote and a default DVC remote, by default in `folder`."""
    repository = folder / "repository.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
    with open(root / ".dvc" / "config", "a") as file:
        file.write(f"['remote \"store\"']\n    url = {dvc_url or folder / 'store'}\n")
        file.writelines(f"    {name} = {value}\n" for name, value in settings.items())
    (root / ".dvc" / "config").write_text(
        (root / ".dvc" / "config").read_text().replace("[core]", "[core]\n    remote = store", 1)
    )
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "A project")
    git(root, "remote", "add", "origin", str(repository))
    return repository
