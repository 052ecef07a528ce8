"""docs/metrics.md documents exactly the metrics that exist. Those of a whole run: tests/flows/test_end_to_end.py."""

from functools import cache

import pytest

from flows.benchmarks import quality
from flows.benchmarks.study import TRACKED
from prolific_core.experiments import study_2d as study
from tests.conftest import ROOT
from tests.support import metrics_page


def test_the_metrics_of_the_classifier_and_the_study_are_documented():
    classified = set(quality.Row.__dataclass_fields__) - {"prompt", "method", "runs", "one_front", "saturation_error"}
    assert classified | {"fronts"} <= metrics_page.documented("### Metrics of a prompt's run")
    studied = {TRACKED.get(name, name) for name in study.Row.__dataclass_fields__} - {"method"}
    assert studied == metrics_page.documented("### Metrics of a study")


@pytest.mark.parametrize("name", sorted(metrics_page.documented()))
def test_documented_metrics_exist(name):
    """The name is in the code, except for the prefix that the loop adds."""
    wanted = name.removeprefix("loss_").removeprefix("time_fraction_")
    assert any(form in code() for form in (f'"{wanted}"', f'"{wanted.replace("_", " ")}"', f"{wanted}="))


@cache
def code() -> str:
    return "".join(
        path.read_text() for folder in ("prolific_core", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")
    )
