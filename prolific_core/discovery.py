"""Names of the implementations that folders of this package hold, found without importing them.

A configuration and a command line can so name what there is without loading torch.
"""

from pathlib import Path

_GUIDANCE = Path(__file__).parent / "guidance"


def guidance_methods() -> list[str]:
    """List the modules in `guidance/` that define a subclass of `Guidance`."""
    return sorted(path.stem for path in _GUIDANCE.glob("*.py") if "(Guidance):\n" in path.read_text(encoding="utf-8"))


def score_compositions() -> list[str]:
    """List the modules in `guidance/combine/`."""
    return sorted(path.stem for path in (_GUIDANCE / "combine").glob("*.py") if not path.stem.startswith("_"))
