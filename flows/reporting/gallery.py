"""The root DVC stage: everything in runs/ on one static page, gallery/index.html, with a report each."""

import json
from pathlib import Path

from flows.reporting import report
from flows.reporting.html import document, escape, number
from tasks.runtime.project import Project


def write(project: Project) -> Path:
    """One card per evaluated prompt; pictures are linked, not copied."""
    cards = []
    for folder in sorted((project.root / "runs").glob("*/evaluate/manifest.json")):
        id = folder.parents[1].name
        manifest, metrics = json.loads(folder.read_text()), json.loads((folder.parent / "metrics.json").read_text())
        prompt = manifest["prompt"]
        shown = " &middot; ".join(
            f"{escape(name.replace('_', ' '))} {number(value)}" for name, value in sorted(metrics.items())
        )
        cards.append(
            f'<div class="card"><a href="../reports/{id}.html"><img src="../runs/{id}/evaluate/contact.png" '
            f'alt="{escape(prompt["text"])}" loading="lazy"></a><h3>{escape(prompt["text"])}</h3>'
            f'<p class="soft">{escape(prompt["preset"])}, seed {prompt["seed"]}</p><p class="soft">{shown}</p>'
            f'<p><a href="../reports/{id}.html">report</a> &middot; <a href="../runs/{id}/export/mesh.glb">mesh.glb</a>'
            f' &middot; <a href="../runs/{id}/evaluate/turntable.mp4">turntable</a></p></div>'
        )
    body = f'<h1>Gallery</h1><p class="soft">{len(cards)} made</p><div class="grid">{"".join(cards)}</div>'
    path = project.root / "gallery" / "index.html"
    path.parent.mkdir(exist_ok=True)
    path.write_text(document("Gallery", body), encoding="utf-8")
    return path


def main() -> None:
    project = Project.find()
    # A plain `dvc repro` ran no flow, so nobody made these yet.
    for id in project.prompt_ids():
        made = project.output(id, "evaluate") / "manifest.json"
        page = project.report(id)
        if made.is_file() and not (page.is_file() and page.stat().st_mtime >= made.stat().st_mtime):
            report.write(project.resolve(id))
    print(write(project))


if __name__ == "__main__":
    main()
