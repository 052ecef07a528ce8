"""Gallery page with a card for each evaluated prompt.

The root DVC pipeline has one stage, which runs this module and writes gallery/index.html.
"""

import sys
from pathlib import Path

from flows.reporting import report
from flows.reporting.html import render
from prolific_core.errors import InputError
from prolific_core.files import read_json, write_atomically
from tasks.runtime.project import Project


def write(project: Project) -> Path:
    """Write the gallery page and return its path.

    The page links to the images in runs/ and does not embed them.
    """
    cards = []
    for manifest in sorted((project.root / "runs").glob("*/evaluate/manifest.json")):
        prompt = read_json(manifest).get("prompt")
        if not isinstance(prompt, dict) or not {"text", "preset", "seed"} <= set(prompt):
            print(f"not in the gallery: {manifest.relative_to(project.root)} is damaged", file=sys.stderr)
            continue
        metrics = read_json(manifest.with_name("metrics.json"))
        cards.append({**prompt, "id": manifest.parents[1].name, "metrics": metrics})
    path = project.root / "gallery" / "index.html"
    write_atomically(path, render("gallery.html", title="Gallery", cards=cards).encode())
    return path


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
