"""docs/metrics.md lists what is measured, and nothing else. (A whole run's names: tests/flows/test_end_to_end.py.)"""

from functools import cache

import pytest

from flows.benchmarks import quality
from flows.benchmarks.study import TRACKED
from prolific_core.experiments import study_2d as study
from tests.conftest import ROOT
from tests.support import metrics_page


def test_what_the_judge_and_the_study_measure_is_listed():
    judged = set(quality.Row.__dataclass_fields__) - {"prompt", "method", "runs", "one_front", "saturation_error"}
    assert judged | {"fronts"} <= metrics_page.documented("### Of a prompt's run")
    studied = {TRACKED.get(name, name) for name in study.Row.__dataclass_fields__} - {"method"}
    assert studied == metrics_page.documented("### Of a study")


@pytest.mark.parametrize("name", sorted(metrics_page.documented()))
def test_what_is_listed_is_measured(name):
    """Its name is in the code, the prefix aside that the loop gives it."""
    wanted = name.removeprefix("loss_").removeprefix("time_fraction_")
    assert any(form in code() for form in (f'"{wanted}"', f'"{wanted.replace("_", " ")}"', f"{wanted}="))


@cache
def code() -> str:
    return "".join(
        path.read_text() for folder in ("prolific_core", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")
    )
