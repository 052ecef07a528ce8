"""Names of the metrics that docs/metrics.md documents, from the first column of its tables."""

import re

from tests.conftest import ROOT


def documented(section: str = "## Metrics") -> set[str]:
    """Return the names between a heading and the next one of the same level."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    rank = section.split()[0]
    part = text.partition(f"{section}\n")[2].partition(f"\n{rank} ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall("`([^`]+)`", cell)}
