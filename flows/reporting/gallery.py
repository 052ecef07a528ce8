"""Gallery page with all evaluated prompts, as a wall of models and as a table.

The root DVC pipeline has one stage, which runs this module and writes gallery/index.html.
"""

import sys
from pathlib import Path
from typing import Any

from flows.reporting import metrics, report
from flows.reporting.html import render
from prolific_core.errors import InputError
from prolific_core.files import read_json, write_atomically
from tasks.runtime.project import Project


def write(project: Project) -> Path:
    """Write the gallery page and return its path.

    The page links to the images in runs/ and does not embed them.
    """
    models = []
    for manifest in sorted((project.root / "runs").glob("*/evaluate/manifest.json")):
        model = _model(manifest)
        if model is None:
            print(f"not in the gallery: {manifest.relative_to(project.root)} is damaged", file=sys.stderr)
        else:
            models.append(model)
    names = metrics.ordered({name for model in models for name in model["metrics"]})
    path = project.root / "gallery" / "index.html"
    page = render(
        "gallery.html",
        scripts=("gallery.js",),
        files=True,
        title="Gallery",
        models=models,
        metrics=[metrics.describe(name) for name in names],
        names=names,
    )
    write_atomically(path, page.encode())
    return path


def _model(manifest: Path) -> dict[str, Any] | None:
    """Return what the page shows of a model, or None if its manifest is damaged."""
    prompt = read_json(manifest).get("prompt")
    if not isinstance(prompt, dict) or not {"text", "preset", "seed"} <= set(prompt):
        return None
    run = manifest.parents[1]
    values = read_json(run / "export" / "metrics.json") | read_json(manifest.with_name("metrics.json"))
    return {"system_name": "", **prompt, "id": run.name, "method": _method(run), "metrics": values}


def _method(run: Path) -> str:
    """Return the guidance method of a run, or an empty string if its manifest does not contain it."""
    section: Any = read_json(run / "nerf" / "manifest.json")
    for key in ("parameters", "nerf", "guidance", "method"):
        section = section.get(key, "") if isinstance(section, dict) else ""
    return section if isinstance(section, str) else ""


def main() -> None:
    project = Project.find()
    # `dvc repro` does not run the flows, so reports may be missing or out of date.
    for id in project.prompt_ids():
        evaluated = project.output(id, "evaluate") / "manifest.json"
        page = project.report(id)
        if evaluated.is_file() and not (page.is_file() and page.stat().st_mtime >= evaluated.stat().st_mtime):
            try:
                report.write(project.resolve(id))
            except InputError as error:
                print(f"no report of {id}: {error}", file=sys.stderr)
    print(write(project))


if __name__ == "__main__":
    main()
