"""Gallery page with a card for each evaluated prompt.

The root DVC pipeline has one stage, which runs this module and writes gallery/index.html.
"""

import json
import sys
from pathlib import Path

from flows.reporting import report
from flows.reporting.html import render
from prolific_core.errors import InputError
from prolific_core.files import write_atomically
from tasks.runtime.project import Project


def write(project: Project) -> Path:
    """Write the gallery page and return its path.

    The page links to the images in runs/ and does not embed them.
    """
    cards = []
    for manifest in sorted((project.root / "runs").glob("*/evaluate/manifest.json")):
        prompt = json.loads(manifest.read_text())["prompt"]
        metrics = json.loads(manifest.with_name("metrics.json").read_text())
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
