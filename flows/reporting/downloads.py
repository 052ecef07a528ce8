"""Files that a report offers for download: as links to the files in runs/, or within the page."""

import io
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from flows.reporting.html import file_size, inline
from tasks.runtime.project import ResolvedPrompt

_KINDS = {
    ".glb": "model with its texture, for engines, browsers and Blender",
    ".ply": "model with colours at its vertices, without seams",
    ".obj": "model as text, with the material and texture below",
    ".zip": "model as OBJ, with material and texture",
    ".mtl": "material of the OBJ",
    ".mp4": "turntable",
    ".json": "metrics",
}
_IMAGES = {"mesh": "texture", "contact": "views from all sides"}


@dataclass(frozen=True)
class Download:
    """File with a description.

    Attributes:
        name: Name under which it is saved.
        about: What it is.
        size: Number of bytes, formatted.
        address: Relative or data URL. It is empty if the page shows the file: its script then makes a copy.
    """

    name: str
    about: str
    size: str
    address: str


def linked(resolved: ResolvedPrompt, folder: Path) -> list[Download]:
    """Return the files in runs/, with addresses relative to a folder."""
    return [_download(path, quote(Path(os.path.relpath(path, folder)).as_posix())) for path in _files(resolved)]


def embedded(resolved: ResolvedPrompt) -> list[Download]:
    """Return the files with addresses that contain them.

    An OBJ file is in a ZIP file with its material and texture.
    """
    found = []
    for path in _files(resolved):
        if path.suffix == ".obj":
            data = _zip([path, path.with_suffix(".mtl"), path.with_suffix(".png")])
            found.append(Download(f"{path.stem}-obj.zip", _KINDS[".zip"], file_size(len(data)), inline(data, ".zip")))
        elif path.suffix != ".mtl":
            found.append(_download(path, inline(path) if path.suffix in (".json", ".ply") else ""))
    return found


def by_particle(paths: Iterable[Path]) -> list[Path]:
    """Sort files such as mesh.glb, mesh_1.glb and mesh_10.glb by the number of their particle."""
    return sorted(paths, key=lambda path: (len(path.stem), path.stem))


def _files(resolved: ResolvedPrompt) -> list[Path]:
    exported, evaluated = resolved.output("export"), resolved.output("evaluate")
    return [
        *(path for kind in ("glb", "ply", "obj", "mtl", "png") for path in by_particle(exported.glob(f"mesh*.{kind}"))),
        *by_particle(evaluated.glob("turntable*.mp4")),
        *by_particle(evaluated.glob("contact*.png")),
        *(path for path in [evaluated / "metrics.json"] if path.is_file()),
    ]


def _download(path: Path, address: str) -> Download:
    about = _IMAGES[re.split("[_.]", path.name)[0]] if path.suffix == ".png" else _KINDS[path.suffix]
    return Download(path.name, about, file_size(path.stat().st_size), address)


def _zip(paths: list[Path]) -> bytes:
    """Return a ZIP file with the files that exist. The same files always give the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            if path.is_file():
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return stream.getvalue()
