"""Where particles end on priors whose scores are known in closed form (`prolific bench theory`)."""

from flows.benchmarks import results
from prolific_core.experiments import theory
from tasks.runtime import machine
from tasks.runtime.console import Console

SCALES = (1.0, 7.5)
COLUMNS = {
    "mean_error": "Gaussian: mean error",
    "variance": "variance",
    "smaller_mode": "two modes: in the smaller",
    "mode_error": "mode error",
    "mode_variance": "variance in a mode",
    "evaluations": "evaluations",
}


def bench(steps: int, methods: list[str]) -> list[theory.Row]:
    """Run the guidance methods at each scale, show each row as it is finished, and return the rows."""
    machine.set_up_torch(1, "cpu")
    console, rows = Console("bench theory"), []
    for method in methods:
        for scale in SCALES:
            rows.append(theory.row(method, scale, steps))
            console.note(table(rows[-1:]).splitlines()[-1])
    return rows


def table(rows: list[theory.Row]) -> str:
    """Format the rows as a Markdown table."""
    cells = ((row.method, f"{row.scale:g}", *(getattr(row, name) for name in COLUMNS)) for row in rows)
    return results.table(["method", "scale", *COLUMNS.values()], cells, ".2f")
