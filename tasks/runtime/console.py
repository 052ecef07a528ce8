"""Progress display of a stage: a bar in a terminal, and lines of text elsewhere."""

import sys
import time
from collections.abc import Callable
from contextvars import ContextVar

EVERY = 10.0  # minimum number of seconds between progress lines if stderr is not a terminal


class Console:
    """Progress display of one stage.

    It is printed to stderr, because stdout contains only the result of a command.
    """

    def __init__(self, title: str):
        self.title = title
        self._values: dict[str, float | None] = {}
        self._bar = None
        self._last_line = 0.0

    def values(self, values: dict) -> None:
        self._values = values

    def note(self, text: str) -> None:
        """Print a permanent line, above the progress bar if one is shown."""
        if self._bar is not None:
            self._bar.console.print(f"{self.title}: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def step(self, step: int, steps: int, left: float | None) -> None:
        if sys.stderr.isatty():
            self._show(step, steps, left)
        elif step >= steps or time.monotonic() - self._last_line > EVERY:
            self._last_line = time.monotonic()
            print(f"{self.title} {line(step, steps, left, self._values)}", file=sys.stderr, flush=True)

    def _show(self, step: int, steps: int, left: float | None) -> None:
        if self._bar is None:
            self._bar = bar()
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=steps, detail="")
        self._bar.update(self._task, completed=step, total=steps, detail=detail(left, self._values))

    def done(self, text: str, cached: bool) -> None:
        """Print the outcome of a stage."""
        print(f"{self.title:<11} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


# Function that creates a console from the name of a stage. A sweep replaces it to show all stages in one display.
new_console: ContextVar[Callable[[str], Console]] = ContextVar("new_console", default=Console)


def bar():
    """Create a progress bar that fits in 80 columns and shows the stage, step, loss and remaining time."""
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        console=Terminal(stderr=True),
    )


def detail(left: float | None, values: dict) -> str:
    """Format the loss and the remaining time, for example `loss 0.312, 93 s left`.

    If the metrics do not include a loss, the first metric is shown.
    """
    parts = []
    name = "loss" if "loss" in values else next(iter(values), None)
    if name and values[name] is not None:
        parts.append(f"{name} {values[name]:.4g}")
    if left is not None:
        parts.append(f"{left:.0f} s left")
    return ", ".join(parts)


def line(step: int, steps: int, left: float | None, values: dict) -> str:
    shown = detail(left, values)
    return f"{step}/{steps}" + (f", {shown}" if shown else "")
