"""Estimators and ways to compose the guided score, each one file found by its name.

Nothing is imported here, so that a configuration and a command line can name what there is without
loading torch.
"""

from pathlib import Path

_HERE = Path(__file__).parent


def estimators() -> list[str]:
    """The modules of this folder that define an `Estimator`."""
    return sorted(path.stem for path in _HERE.glob("*.py") if "\nclass Estimator(" in path.read_text(encoding="utf-8"))


def combinations() -> list[str]:
    """The modules of combine/."""
    return sorted(path.stem for path in (_HERE / "combine").glob("*.py") if not path.stem.startswith("_"))
