"""Process that computes a texture atlas with xatlas: `python -m prolific_core.mesh.atlas IN.npz OUT.npz SECONDS`.

xatlas cannot be interrupted and takes minutes for some meshes. In a process of its own, it can be stopped.
"""

import math
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from prolific_core.errors import ProlificError


class AtlasTimeout(ProlificError):
    """Error raised when xatlas has not finished in time."""


def atlas(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    *,
    max_chart_area: float,
    resolution: int,
    padding: int,
    seconds: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a mesh into charts and pack them.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        max_chart_area: Largest area of a chart, in squared units of the vertices.
        resolution: Height and width of the atlas in texels, which xatlas may exceed.
        padding: Distance between charts in texels of that resolution.
        seconds: Time limit; None computes in this process, without a limit.

    Returns:
        The vertex (V',) that each new vertex copies, the faces (F, 3), and texture coordinates (V', 2) in [0, 1].

    Raises:
        AtlasTimeout: xatlas has not finished in time.
    """
    given = {
        "vertices": np.ascontiguousarray(vertices, np.float32),
        "faces": np.ascontiguousarray(faces, np.uint32),
        "options": np.array([max_chart_area, resolution, padding], np.float64),
    }
    if seconds is None:
        return _generate(**given)
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, **given)
        command = [sys.executable, "-m", __name__, str(source), str(result), str(math.ceil(seconds) + 1)]
        try:
            subprocess.run(command, check=True, timeout=seconds, capture_output=True, text=True, cwd=_ROOT)
        except subprocess.TimeoutExpired:
            raise AtlasTimeout(
                f"xatlas has not unwrapped {len(faces)} faces within {seconds:g} s; lower export.faces, or raise "
                "export.unwrap_seconds"
            ) from None
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
            raise ProlificError(f"xatlas failed on a mesh of {len(faces)} faces: {last}") from None
        with np.load(result) as found:
            return found["source"], found["faces"], found["uvs"]


#: Folder from which the package of this file is imported.
_ROOT = Path(__file__).parents[2]


def _generate(
    vertices: np.ndarray, faces: np.ndarray, options: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import xatlas

    area, resolution, padding = options.tolist()
    work = xatlas.Atlas()
    work.add_mesh(vertices, faces)
    charts, layout = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1
    charts.max_chart_area = area
    layout.resolution, layout.padding = int(resolution), int(padding)
    layout.bilinear = True
    layout.bruteForce = True  # takes seconds more and covers a tenth more of the texture
    work.generate(charts, layout)
    source, faces, uvs = work[0]
    return source.astype(np.int64), faces.astype(np.int64), uvs.astype(np.float32)


if __name__ == "__main__":
    # The process also ends if its parent was killed and cannot stop it.
    if hasattr(signal, "alarm"):
        signal.alarm(int(sys.argv[3]))
    with np.load(sys.argv[1]) as _given:
        _source, _faces, _uvs = _generate(**dict(_given))
    np.savez(sys.argv[2], source=_source, faces=_faces, uvs=_uvs)
