"""`prolific compare`: which runs it makes, what it calls a difference, and its page. Runs of all methods are slow."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flows.benchmarks import study
from flows.benchmarks.comparison import compare, finished, images_2d, measures, plan, summary, systems_3d
from flows.benchmarks.comparison.finished import Finished
from flows.benchmarks.comparison.plan import Run, Size
from flows.cli import main as cli
from flows.prompt_store import create
from flows.reporting import comparison
from prolific_core.errors import InputError
from prolific_core.experiments import study_2d
from prolific_core.mesh.export import load_glb, write_glb
from prolific_core.mesh.unwrap import UnwrappedMesh
from prolific_core.metrics.intervals import Interval
from prolific_core.render.mesh.lights import studio
from prolific_core.seeding import generator
from prolific_core.toybox.world.draw import parse
from tests.support import browser, tiny_pipeline
from tests.support.browser import Browser

SIZE = Size(prompts=2, seeds=3, evaluations=100, scales=(1.0, 7.5), tuning_prompts=2, particles=2)


def test_scales_are_chosen_with_prompts_and_seeds_that_are_not_in_a_table():
    runs = plan.tuning(["sds", "vsd"], SIZE)
    assert len(runs) == len(set(runs)) == 2 * 2 * 2
    for sizes in plan.SIZES.values():
        for size in sizes.values():
            assert size.prompts <= len(plan.PROMPTS) and size.tuning_prompts <= len(plan.TUNING_PROMPTS)
    assert {run.prompt for run in runs}.isdisjoint(plan.PROMPTS) and {run.seed for run in runs} == {plan.TUNING_SEED}
    assert all(parse(text) for text in (*plan.PROMPTS, *plan.TUNING_PROMPTS))
    excess = {run: {"sds": 8.5 - run.scale, "vsd": run.scale}[run.method] for run in runs}
    assert plan.best_scales(["sds", "vsd"], SIZE, excess) == {"sds": 7.5, "vsd": 1.0}


def test_a_single_scale_needs_no_runs():
    size = Size(1, 1, 100, (4.0,))
    assert plan.tuning(["sds"], size) == [] and plan.best_scales(["sds"], size, {}) == {"sds": 4.0}


def test_an_interrupted_table_has_all_methods():
    runs = plan.table_runs({"sds": 1.0, "vsd": 7.5}, ["a red mug", "a blue cube"], 2)
    assert len(runs) == len(set(runs)) == 8
    assert {(run.method, run.scale) for run in runs[:2]} == {("sds", 1.0), ("vsd", 7.5)}
    assert {run.seed for run in runs[:4]} == {0}


def test_more_diverse_than_truth_is_worse():
    found = {
        Run(method, 7.5, prompt, seed): {"diversity": diversity + 0.01 * seed}
        for prompt in ("a red mug", "a blue cube")
        for seed in range(3)
        for method, diversity in (("vsd", 0.9), ("sds", 1.6))
    }
    (row,) = summary.differences(found, "vsd")
    assert (row.method, row.metric, row.verdict) == ("sds", "diversity", "worse")
    assert 0.5 < row.interval.mean < 0.55


def results(**offsets: float) -> dict[Run, dict[str, float]]:
    """Return the metrics of runs whose excess is that of vsd plus an offset and a little noise."""
    random = np.random.default_rng(0)
    return {
        Run(method, 7.5, prompt, seed): {
            "excess": prompt_excess + offset + 0.1 * random.normal(),
            "diversity": 0.5,
            "evaluations": 100.0,
        }
        for prompt, prompt_excess in (("a red mug", 0.0), ("a blue cube", 5.0), ("a green cone", 9.0))
        for seed in range(3)
        for method, offset in {"vsd": 0.0, **offsets}.items()
    }


def test_a_difference_smaller_than_its_interval_is_none():
    rows = summary.differences(results(sds=2.0, csd=-2.0, ism=0.0), "vsd")
    verdicts = {(row.method, row.metric): row.verdict for row in rows}
    # Prompts differ by more than methods, but runs of the same prompt and seed are compared.
    assert verdicts["sds", "excess"] == "worse" and verdicts["csd", "excess"] == "better"
    assert verdicts["ism", "excess"] == verdicts["sds", "diversity"] == "none"
    one = {run: values for run, values in results(sds=2.0).items() if run.prompt == "a red mug" and run.seed == 0}
    assert {row.verdict for row in summary.differences(one, "vsd")} == {"none"}  # there is no interval


def test_a_metric_that_some_prompts_do_not_have_is_averaged_over_the_others():
    found = results()
    for run in found:
        if run.prompt == "a red mug":
            found[run]["fronts"] = 2.0
    assert summary.means(found)["vsd"]["fronts"].mean == 2.0
    del found[next(run for run in found if "fronts" in found[run])]["fronts"]
    assert "fronts" not in summary.means(found)["vsd"]  # incomplete


def space(**offsets: float) -> compare.Space:
    return compare.Space("2d", SIZE, dict.fromkeys(["vsd", *offsets], 7.5), finished_runs(results(**offsets)))


def finished_runs(found):
    return {
        run: Finished(metrics, "1a2b", comparison.picture(torch.rand(4, 3, 8, 8))) for run, metrics in found.items()
    }


def test_the_table_and_the_page_show_means_intervals_and_verdicts():
    part = space(sds=2.0)
    text = compare.text("quick", [part])
    assert (
        "Smoke test, no conclusions" in text
        and "Prompts: 3; seeds: 3; about 100 U-Net evaluations per image, 2 images" in text
        and "Scales, chosen with other prompts: 1, 7.5." in text
    )
    assert "worse" in text and "0.50 (" not in text  # a constant has no interval
    facts = {"date": "2026-01-01", "commit": "<script>", "command": "prolific compare"}
    page = comparison.page(facts, "a note", [compare.section(part)])
    assert page.count("data:image/png;base64,") == 2 * 3 and "&lt;script&gt;" in page and "<script>alert" not in page
    assert "a note" in page and ">worse</td>" in page


def test_finished_runs_are_reused_with_their_pictures_and_only_missing_ones_are_made(project, tmp_path, monkeypatch):
    """The second comparison has one more seed and one more method."""
    made: list[Run] = []

    def make(self, runs):
        made.extend(runs)
        return {
            run: Finished(
                {"excess": run.scale + run.seed, "family": 1.0},
                f"commit {len(made)}",
                comparison.picture(torch.full((4, 3, 8, 8), run.seed / 4)),
                [float(run.seed), 1.0 if run.method == "vsd" else 0.0],
            )
            for run in runs
        }

    monkeypatch.setattr(compare._Work, "_make", make)
    monkeypatch.setattr(measures, "diversity_of_objects", lambda text, vectors: {"diversity": float(len(vectors))})
    size = Size(2, 1, 100, (1.0, 7.5))
    monkeypatch.setattr(plan, "SIZES", {"default": {"3d": size}})
    options = {"spaces": ["3d"], "systems": [], "prompts": [], "evaluations": None, "workers": 1, "preset": "demo"}
    first = compare.run(project, "default", methods=["vsd"], seeds=1, out=tmp_path / "a", **options)
    assert len(made) == 2 + 2 and "diversity" not in first[0].means["vsd"]
    pictures = sorted(path.name for path in (tmp_path / "a" / "images").iterdir())
    assert [name[: -len("-12345678.png")] for name in pictures] == [
        "3d-vsd-1-a-blue-chair-0", "3d-vsd-1-a-red-mushroom-0",
    ]  # fmt: skip
    made.clear()
    (second,) = compare.run(
        project, "default", methods=["vsd", "sds"], seeds=2, out=tmp_path / "b", reuse=tmp_path / "a", **options
    )
    assert [(run.method, run.seed) for run in made if run.seed != plan.TUNING_SEED] == [
        ("sds", 0), ("sds", 0), ("vsd", 1), ("sds", 1), ("vsd", 1), ("sds", 1),
    ]  # fmt: skip
    assert len(made) == 2 + 6 and {run.method for run in made if run.seed == plan.TUNING_SEED} == {"sds"}
    assert second.means["vsd"]["diversity"].mean == 2 and len(second.found) == 8
    page = (tmp_path / "b" / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "commit 4, commit 8" in page
    made.clear()
    (third,) = compare.run(
        project, "default", methods=["vsd"], seeds=1, out=tmp_path / "c", reuse=tmp_path / "b", **options
    )
    assert not made and third.found == first[0].found  # without the diversity of the larger table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values["3d"]["conditions"].update(evaluations=7), "were made with evaluations 7, not 100"),
        (lambda values: values["3d"]["conditions"].pop("prior"), "were made with prior None"),
        (lambda values: values["3d"].pop("tuning"), "is not a comparison with reusable runs ('tuning')"),
        (lambda values: values["3d"]["tuning"][0].pop("seed"), "is not a comparison with reusable runs ('seed')"),
        (lambda values: values.update({"3d": [1]}), "is not a comparison with reusable runs"),
        (lambda values: values["3d"].update(conditions=["prior"]), "is not a comparison with reusable runs"),
        (lambda values: values["3d"]["tuning"][0]["metrics"].pop("excess"), "with reusable runs ('excess')"),
        (
            lambda values: values["3d"]["runs"][0]["metrics"].update(excess=None),
            "is not a comparison with reusable runs",
        ),
        (lambda values: values["3d"]["runs"][0].pop("features"), "with reusable runs ('features')"),
        (lambda values: values["3d"]["runs"][0].update(features=[[1]]), "is not a comparison with reusable runs"),
        (lambda values: values["3d"]["runs"][0].update(commit={}), "is not a comparison with reusable runs"),
        (lambda values: values["3d"]["runs"][0].update(picture="../compare.json"), "with reusable runs ("),
        (lambda values: values["3d"]["runs"][0].update(picture="not a picture.png"), "is not a PNG file"),
    ],
)
def test_runs_under_other_conditions_are_refused_in_one_line(project, tmp_path, monkeypatch, change, said):
    result = Finished({"excess": 1.0}, "1", features=[1.0])
    monkeypatch.setattr(compare._Work, "_make", lambda self, runs: dict.fromkeys(runs, result))
    monkeypatch.setattr(plan, "SIZES", {"default": {"3d": Size(1, 1, 100, (1.0, 7.5))}})
    options = {"spaces": ["3d"], "systems": [], "prompts": [], "evaluations": None, "workers": 1, "preset": "demo"}
    options |= {"methods": ["sds"], "seeds": 1, "out": tmp_path}
    compare.run(project, "default", **options)
    compare.run(project, "default", reuse=tmp_path, **options)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "not a picture.png").write_bytes(b"secret")
    values = json.loads((tmp_path / "compare.json").read_text())
    change(values)
    (tmp_path / "compare.json").write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        compare.run(project, "default", reuse=tmp_path, **options)
    assert str(caught.value).startswith("--reuse: ") and said in str(caught.value) and "\n" not in str(caught.value)


def test_runs_with_another_prior_are_refused_also_if_the_preset_or_the_data_type_decides_it(project):
    def prior(space: str, preset: str = "demo") -> str:
        return compare._Work(project, space, SIZE, 1, preset, None).conditions["prior"]

    usual = prior("2d")
    assert usual.startswith("toybox ") and prior("3d") == prior("systems") == usual
    assert prior("3d", "paper") == "stabilityai/stable-diffusion-2-1-base auto" and prior("2d", "paper") == usual
    (project.root / "params.yaml").write_text(json.dumps({"prior": {"dtype": "bfloat16"}}))
    assert prior("2d") == usual.replace("toybox ", "toybox bfloat16 ")


def test_a_folder_without_a_comparison_cannot_be_reused(tmp_path):
    with pytest.raises(InputError, match="--reuse: .*compare.json is not a comparison with reusable runs"):
        finished.read(tmp_path, "2d", {})
    (tmp_path / "compare.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="--reuse: .*compare.json is not a comparison with reusable runs"):
        finished.read(tmp_path, "2d", {})
    (tmp_path / "compare.json").write_text("{}")
    assert finished.read(tmp_path, "2d", {}) == {}  # a comparison of the other space


def test_runs_whose_prompts_are_similar_have_pictures_of_their_own(tmp_path):
    found = {
        Run("sds", 1.0, text, 0): Finished({"excess": 0.0}, "1", comparison.picture(torch.full((1, 3, 8, 8), k / 8)))
        for k, text in enumerate(["a red mug", "a RED mug", "a BLUE mug", "a  red mug", "a red mug" + " with tea" * 50])
    }
    runs = finished.write(tmp_path, "2d", found)
    (tmp_path / "compare.json").write_text(json.dumps({"2d": {"conditions": {}, "tuning": [], "runs": runs}}))
    assert finished.read(tmp_path, "2d", {}) == found


def test_a_table_is_not_replaced_by_one_without_some_of_its_runs(project, tmp_path, monkeypatch):
    """If --out and --reuse name the same folder, runs that are not in the new table would be lost."""
    made: list[Run] = []
    result = Finished({"excess": 1.0}, "1", features=[1.0])
    monkeypatch.setattr(compare._Work, "_make", lambda self, runs: made.extend(runs) or dict.fromkeys(runs, result))
    monkeypatch.setattr(measures, "diversity_of_objects", lambda text, vectors: {})
    size = Size(2, 1, 100, (1.0, 7.5))
    monkeypatch.setattr(plan, "SIZES", {"default": {"3d": size, "2d": size}})
    usual = {"spaces": ["2d", "3d"], "systems": [], "methods": ["vsd", "sds"], "prompts": [], "seeds": 2}
    usual |= {"evaluations": None, "workers": 1, "preset": "demo", "out": tmp_path}
    compare.run(project, "default", **usual)
    before = (tmp_path / "compare.json").read_bytes()
    made.clear()
    for change, said in (
        ({"methods": ["vsd", "csd"]}, "would not have 4 of its runs, such as sds at 1, a red mushroom, seed 0"),
        ({"seeds": 1}, "would not have 4 of its runs, such as"),
        ({"prompts": ["a red mug", "a red mushroom"]}, "would not have 4 of its runs, such as"),
        ({"spaces": ["3d"]}, "would not have its runs in 2d"),
    ):
        with pytest.raises(InputError) as caught:
            compare.run(project, "default", **usual | change, reuse=tmp_path)
        assert str(caught.value).startswith("--out: ") and said in str(caught.value), caught.value
    assert not made and (tmp_path / "compare.json").read_bytes() == before
    compare.run(project, "default", **usual | {"methods": ["vsd", "sds", "csd"]}, reuse=tmp_path)
    assert {run.method for run in made} == {"csd"}


def test_all_reused_runs_are_checked_before_others_are_made(project, tmp_path, monkeypatch):
    made: list[Run] = []
    result = Finished({"excess": 1.0}, "1", features=[1.0])
    monkeypatch.setattr(compare._Work, "_make", lambda self, runs: made.extend(runs) or dict.fromkeys(runs, result))
    monkeypatch.setattr(plan, "SIZES", {"default": {"2d": Size(1, 1, 100, (1.0,)), "3d": Size(1, 1, 100, (1.0,))}})
    options = {"spaces": ["2d", "3d"], "systems": [], "prompts": [], "evaluations": None, "workers": 1, "seeds": 1}
    options |= {"methods": ["sds"], "out": tmp_path}
    compare.run(project, "default", preset="demo", **options)
    made.clear()
    with pytest.raises(InputError, match="were made with preset demo, not tiny"):
        compare.run(project, "default", preset="tiny", reuse=tmp_path, **options | {"prompts": ["a red mug"]})
    assert not made


LINES_OF_NAMES = """[...document.querySelectorAll('.sortable td:first-child')].map(cell => {
    const range = document.createRange(); range.selectNodeContents(cell); return range.getClientRects().length; })"""


@pytest.mark.skipif(browser.FOUND is None, reason=browser.MISSING)
def test_names_of_methods_stay_on_one_line_beside_all_columns(tmp_path):
    names = [(name, 1.0, [Interval(0.123, 0.012, 0.234)] * 16) for name in ("bridge", "vsd")]
    part = replace(compare.section(space(sds=2.0)), columns=[f"a long column {k}" for k in range(16)], rows=names)
    facts = {"date": "2026-01-01", "commit": "1", "command": "prolific compare"}
    (tmp_path / "page.html").write_text(comparison.page(facts, "", [part]))
    with Browser(tmp_path / "profile") as page:
        for width in (1200, 390):
            page.emulate(width, 900)
            page.open((tmp_path / "page.html").as_uri())
            page.until("document.readyState === 'complete' && document.querySelector('tbody td') !== null")
            lines = page.run(LINES_OF_NAMES)
            assert lines and set(lines) == {1}, lines
            assert page.run("document.documentElement.scrollWidth") <= width


def test_an_interval_is_shown_only_if_there_is_one():
    assert summary._cell(Interval(1.0, 1.0, 1.0), "excess") == "1.00"
    assert summary._cell(Interval(1.0, 0.5, 1.5), "excess") == "1.00 (0.50 to 1.50)"
    assert summary._cell(Interval(1234.4, 1000.0, 1500.0), "seconds") == "1234 (1000 to 1500)"
    assert summary._cell(None, "excess") == ""


def test_a_run_in_2d_has_as_many_evaluations_as_all_others_and_is_kept(tmp_path):
    prior = str(tiny_pipeline.make(tmp_path / "prior"))
    made = {}
    for method in ("sds", "vsd", "asd"):
        run = Run(method, 7.5, "a red mug", 0)
        folder = tmp_path / method
        made[method] = images_2d._perform(images_2d.Work(run, folder, prior, "float32", 1, 2, 36))
        assert images_2d._kept(folder) == made[method]
        assert not list(folder.glob("state-*"))
    assert {name: outcome.steps for name, outcome in made.items()} == {"sds": 18, "vsd": 6, "asd": 12}
    assert {outcome.evaluations for outcome in made.values()} == {36.0}
    made["sds"].path.unlink()
    assert images_2d._kept(tmp_path / "sds") is None


def test_the_time_of_a_run_in_2d_is_that_of_its_images_alone(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(images_2d.time, "monotonic", lambda: clock[0])

    def takes(seconds: float, result: object):
        return lambda *arguments: clock.__setitem__(0, clock[0] + seconds) or result

    monkeypatch.setattr(images_2d, "_prior", takes(100, None))
    monkeypatch.setattr(images_2d, "_evaluations_per_step", takes(10, 2.0))
    monkeypatch.setattr(study_2d, "make", takes(1, torch.zeros(2, 3, 8, 8)))
    work = images_2d.Work(Run("sds", 7.5, "a red mug", 0), tmp_path / "run", "prior", "float32", 1, 2, 36)
    assert images_2d._perform(work).seconds == 1


def test_finished_runs_in_2d_are_not_those_of_another_data_type_or_composition(project):
    run = Run("sds", 7.5, "a red mug", 0)

    def key() -> str:
        images_2d._hash.cache_clear()
        return images_2d._key(project, run, SIZE)

    keys = [key()]
    (project.root / "params.yaml").write_text(json.dumps({"prior": {"dtype": "bfloat16"}}))
    keys.append(key())
    composition = project.root / "prolific_core" / "guidance" / "combine" / "cfg.py"
    composition.write_text(composition.read_text() + "\nCHANGED = 1\n")
    keys.append(key())
    assert len(set(keys)) == 3
    guidance = study_2d.stage_config(images_2d._method(run), study_2d.Settings(), steps=1, batch=1).guidance
    assert images_2d.COMPOSITION.endswith(f".{guidance.combine}")


def test_more_seeds_than_true_objects_are_compared_with_as_many(monkeypatch):
    def truth(text: str, views: object, count: int = 8) -> measures.Views:
        """Return objects whose features are orthogonal, so that their Vendi score is their number."""
        rgb = torch.eye(16)[:count].repeat_interleave(len(measures.cameras()), 0)[:, None, None].expand(-1, 3, 1, 16)
        return measures.Views(rgb, rgb[:, :1])

    monkeypatch.setattr(measures, "features", lambda rgb: rgb[:, 0, 0])
    monkeypatch.setattr(measures, "true_views", truth)
    monkeypatch.setattr(measures, "_true_objects", lambda text: (truth(text, None), []))
    for count in (4, 8, 12):
        found = measures.diversity_of_objects(f"a red mug, {count}", torch.eye(16)[:count])
        assert found["vendi_ratio"] == pytest.approx(1) and found["diversity"] == pytest.approx(1)


def test_a_system_is_compared_with_the_parameters_of_the_preset(project):
    usual, other = (Run("fantasia3d", 100.0, text, 0) for text in ("a red mug", "a blue chair"))
    create.file_prompt(project, "a red mug", system="fantasia3d", own={"geometry": {"steps": 600}})
    for _ in range(2):  # the second time, both exist
        filed = systems_3d.file_prompts(project, [usual, other], "demo")
        assert {project.config(prompt).geometry.steps for prompt in filed.values()} == {100}
        assert filed[other].id == "a-blue-chair-fantasia3d"
    assert project.config(project.prompt("a-red-mug-fantasia3d")).geometry.steps == 600


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_the_scale_of_a_system_is_that_of_its_first_stage_with_guidance(project, preset):
    assert systems_3d.scale(project, "fantasia3d", preset) == 100.0  # its radiance field is not optimised
    assert systems_3d.scale(project, "dreamfusion", preset) == 100.0
    assert systems_3d.scale(project, "prolificdreamer", "paper") == 7.5


def test_the_materials_of_a_system_have_the_light_of_their_training(tmp_path, monkeypatch):
    place = torch.tensor([[0.0, -0.4, -0.4], [0.0, 0.4, -0.4], [0.0, 0.0, 0.4]]).numpy()
    mesh = UnwrappedMesh(place, np.array([[0, 1, 2]]), place[:, 1:] + 0.5, np.array([[1.0, 0, 0]] * 3, np.float32))
    write_glb(tmp_path / "mesh.glb", mesh, np.full((8, 8, 5), 0.5, np.float32))
    found = []
    for seed in (0, 1):
        prompt, project = SimpleNamespace(id="x", seed=seed), SimpleNamespace(output=lambda id, stage: tmp_path)
        views, _ = systems_3d.result(project, prompt)
        light = studio(generator(seed, "light"))
        expected = load_glb(tmp_path / "mesh.glb", lighting=light).render(measures.cameras()[0], 64).rgb
        assert torch.equal(views.rgb[:1], expected)
        found.append(views.rgb)
    assert not torch.equal(*found)


def test_the_study_takes_any_guidance_method_with_a_scale():
    assert study._method("vsd 7.5, n = 1").shared is False
    assert (study._method("ism 12.5").kind, study._method("ism 12.5").scale) == ("ism", 12.5)
    for name in ("ism", "magic 7.5", "ism 1e3", "ism -1"):
        with pytest.raises(InputError, match="no method"):
            study._method(name)


@pytest.mark.slow
def test_a_comparison_in_2d_from_the_command_to_the_page(clone):
    arguments = ["compare", "--quick", "--space", "2d", "--methods", "sds,csd", "--seeds", "1", "--out", "page"]
    done = clone.prolific(*arguments)
    assert done.returncode == 0, done.stderr
    values = json.loads((clone.root / "page" / "compare.json").read_text())["2d"]
    assert set(values["means"]) == {"sds", "csd"} and len(values["runs"]) == 4
    runs = sorted(Path(clone.root).rglob("run.json"))
    assert len(runs) == 4 + 4  # two scales and two methods with one prompt, and two prompts
    before = [path.stat().st_mtime_ns for path in runs]
    assert clone.prolific(*arguments).returncode == 0
    assert [path.stat().st_mtime_ns for path in runs] == before


def test_truth_measures_as_truth():
    text = "a green car"
    found = measures.of_images(text, measures.true_images(text, first=200, count=8))
    assert found["percentile"] < 1 and abs(found["excess"]) < 1
    assert found["family"] == 1 and found["r_precision"] >= 0.75 and found["saturation_error"] < 0.15
    noise = measures.of_images(text, torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert noise["excess"] > found["excess"] + 3 and noise["percentile"] == 1 and noise["r_precision"] < 0.25


def test_the_other_prompts_are_prompts_of_the_world():
    others = measures.other_prompts("a green car")
    assert len(set(others)) == 31 and "a green car" not in others and all(parse(text) for text in others)
    assert "an orange" in " ".join(measures.other_prompts("a red mug"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--systems", "magic"], "--systems: no system 'magic'; known: dreamfusion, fantasia3d, magic3d"),
        (["--systems", "magic3d", "--methods", "vsd"], "--systems cannot be used with --methods"),
        (["--systems", "magic3d", "--space", "2d"], "--systems cannot be used with --methods, --space"),
        (["--methods", "vsd,magic"], "--methods: no guidance method 'magic'; known: asd"),
    ],
)
def test_unknown_names_are_one_line(arguments, said):
    with pytest.raises(InputError) as caught:
        cli._run(["compare", *arguments])
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_paths_are_those_of_the_folder_in_which_the_command_runs_and_of_the_root(project, monkeypatch, capsys):
    folder = project.root / "prompts"
    (folder / "mine.txt").write_text("a red mug\n")
    monkeypatch.chdir(folder)
    given = {}
    monkeypatch.setattr(compare, "run", lambda project, form, **options: given.update(options, at=Path.cwd()) or [])
    cli._run(["compare", "--quick", "--prompts", "mine.txt", "--out", "page"])
    assert given["prompts"] == ["a red mug"] and given["out"] == folder / "page"
    assert given["at"] == project.root  # as prior.path in the parameters is relative to the root
    assert str(folder / "page" / "compare.html") in capsys.readouterr().out


def test_systems_are_compared_with_prolificdreamer_and_their_cost_is_said_to_differ():
    found = results(dreamfusion=2.0)
    found = {replace(run, method={"vsd": "prolificdreamer"}.get(run.method, run.method)): v for run, v in found.items()}
    part = compare.Space("systems", SIZE, {"prolificdreamer": 4.0, "dreamfusion": 100.0}, finished_runs(found))
    text = compare.text("default", [part])
    assert "## Systems (final models)" in text and "the cost differs" in text
    assert "Difference to prolificdreamer" in text and "worse" in text
    assert compare.section(part).reference == "prolificdreamer"


def test_a_failed_run_in_2d_ends_the_others_with_its_own_message(project):
    prior = tiny_pipeline.make(project.root / "prior")
    (prior / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # noticed only when a process loads it
    (project.root / "params.yaml").write_text(json.dumps({"prior": {"path": str(prior)}}))
    runs = [Run("sds", 7.5, "a red mug", seed) for seed in range(2)]
    with pytest.raises(InputError, match="prior"):
        images_2d.outcomes(project, runs, SIZE, 2, lambda run: None)
