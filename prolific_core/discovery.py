"""Names of the available guidance methods and score compositions.

The names are read from the files without importing the modules, so that the configuration and the command line can list
them without loading torch.
"""

from pathlib import Path

_GUIDANCE = Path(__file__).parent / "guidance"


def guidance_methods() -> list[str]:
    """Return the names of the modules in `guidance/` that define a subclass of `Guidance`.

    Returns:
        The module names in alphabetical order, for example `["csd", "sds", "vsd"]`.
    """
    return sorted(path.stem for path in _GUIDANCE.glob("*.py") if "(Guidance):\n" in path.read_text(encoding="utf-8"))


def score_compositions() -> list[str]:
    """Return the names of the modules in `guidance/combine/`.

    Returns:
        The module names in alphabetical order, for example `["cfg", "perp_neg", "rescale"]`.
    """
    return sorted(path.stem for path in (_GUIDANCE / "combine").glob("*.py") if not path.stem.startswith("_"))
