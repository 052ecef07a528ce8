"""What docs/metrics.md lists: the names in the first column of its tables of metrics."""

import re

from tests.conftest import ROOT


def documented(section: str = "## Metrics") -> set[str]:
    """The names below a heading, as far as the next one of its rank."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    rank = section.split()[0]
    part = text.partition(f"{section}\n")[2].partition(f"\n{rank} ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall("`([^`]+)`", cell)}
