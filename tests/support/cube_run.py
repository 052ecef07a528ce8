"""A run whose model is a cube with sides of six colours, and screenshots in which these colours are found again."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from flows.prompt_store import create
from prolific_core.mesh.export import write_glb, write_obj
from prolific_core.mesh.unwrap import UnwrappedMesh
from tests.support.browser import Browser

RGB = [(220, 40, 40), (40, 160, 60), (60, 80, 220), (230, 180, 40), (150, 60, 170), (40, 170, 180)]


def cube() -> tuple[UnwrappedMesh, np.ndarray]:
    """Return a cube whose sides have six colours, with a texture of 6 x 6 patches."""
    corners, faces, uvs = [], [], []
    for side in range(6):
        axis, sign = side // 2, 1 - 2 * (side % 2)
        for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            point = np.zeros(3)
            point[axis], point[(axis + 1) % 3], point[(axis + 2) % 3] = sign, u * sign, v
            corners.append(point * 0.4)
            uvs.append(((side + 0.5) / 6, 0.5))
        faces += [[4 * side, 4 * side + 1, 4 * side + 2], [4 * side, 4 * side + 2, 4 * side + 3]]
    texture = np.repeat(np.repeat(np.array([RGB], np.uint8), 6, 0), 4, 1).repeat(4, 0)
    mesh = UnwrappedMesh(np.array(corners, np.float32), np.array(faces), np.array(uvs, np.float32))
    return mesh, texture


def make(project, text: str, id: str, metrics: dict, particles: int = 1) -> None:
    """Write the outputs of a run that a page shows, with a cube as the model."""
    prompt = create.file_prompt(project, text, preset="tiny", id=id)
    evaluated, exported = project.output(id, "evaluate"), project.output(id, "export")
    preview = project.output(id, "nerf") / "preview"
    for folder in (evaluated, exported, preview):
        folder.mkdir(parents=True)
    for index in range(particles):
        name = f"mesh_{index}" if index else "mesh"
        write_glb(exported / f"{name}.glb", *cube())
        write_obj(exported / f"{name}.obj", *cube())
    Image.new("RGB", (64, 32), "red").save(evaluated / "contact.png")
    Image.new("RGB", (64, 64), "red").save(preview / "views-000020.png")
    (evaluated / "metrics.json").write_text(json.dumps(metrics))
    subject = {"id": id, "text": text, "seed": prompt.seed, "preset": "tiny"}
    (evaluated / "manifest.json").write_text(json.dumps({"prompt": subject}))
    state = project.stage_state(id, "nerf")
    state.mkdir(parents=True)
    losses = [{"kind": "metrics", "step": step, "values": {"loss": 1 / step, "opacity": 0.5}} for step in (1, 10, 20)]
    (state / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in losses))


def pixels(page: Browser, selector: str, folder: Path) -> np.ndarray:
    """Return a screenshot (H, W, 3) of an element, after the next two frames."""
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = page.run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
    page.screenshot(folder / "element.png", *(box[name] for name in ("left", "top", "width", "height")))
    return np.asarray(Image.open(folder / "element.png").convert("RGB")).astype(int)


def colours(image: np.ndarray) -> int:
    """Return how many of the cube's colours cover at least 1% of an image."""
    return sum((np.abs(image - np.array(rgb)).max(-1) < 40).mean() > 0.01 for rgb in RGB)
