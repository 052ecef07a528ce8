"""docs/metrics.md documents exactly the metrics that exist. Those of a whole run: tests/flows/test_end_to_end.py."""

from functools import cache

import pytest

from flows.benchmarks import quality
from flows.benchmarks.study import TRACKED
from flows.reporting import metrics as descriptions
from prolific_core.experiments import study_2d as study
from tasks import evaluate
from tests.conftest import ROOT
from tests.support import metrics_page


def test_the_metrics_of_the_classifier_and_the_study_are_documented():
    classified = set(quality.Row.__dataclass_fields__) - {"prompt", "method", "runs", "one_front", "saturation_error"}
    assert classified | {"fronts"} <= metrics_page.documented("### Metrics of a prompt's run")
    studied = {TRACKED.get(name, name) for name in study.Row.__dataclass_fields__} - {"method"}
    assert studied == metrics_page.documented("### Metrics of a study")


def test_the_tables_are_made_from_the_words_of_the_pages():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert descriptions.documented(page) == page, "run: python -m flows.reporting.metrics"


def test_what_true_objects_have():
    values = {"kernel_distance": 3.0, "kernel_distance_excess": 2.5, "fronts": 2.0}
    truth = {name: descriptions.describe(name).true_value(values) for name in (*values, "alignment", "unknown")}
    assert truth == {
        "kernel_distance": 0.5, "kernel_distance_excess": 0.0, "fronts": 1.0, "alignment": None, "unknown": None
    }  # fmt: skip
    assert descriptions.describe("kernel_distance").true_value({"kernel_distance": 3.0}) is None
    assert descriptions.describe("kernel_distance").true_value(values | {"kernel_distance": None}) is None
    assert descriptions.ordered(["unknown", "alignment", "family_agreement"])[0] == "family_agreement"


def test_a_metric_that_the_first_particle_does_not_have_is_kept():
    assert evaluate._means([{"iou": 0.0}, {"iou": 0.5, "chamfer": 0.1}]) == {"iou": 0.25, "chamfer": 0.1}


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
