"""Render HTML pages from the templates in templates/.

A page loads nothing from the network. Its policy (Content-Security-Policy) allows only the scripts that it is rendered
with, so that text from a result could not run as a script even if it were not escaped.
"""

import base64
import hashlib
import math
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

MODEL_VIEWER = "../vendored/model-viewer.min.js"

_FOLDER = Path(__file__).with_name("templates")
_MEDIA_TYPES = {
    ".png": "image/png",
    ".mp4": "video/mp4",
    ".glb": "model/gltf-binary",
    ".ply": "application/octet-stream",
    ".json": "application/json",
    ".zip": "application/zip",
}
_POLICY = (
    "default-src 'none'; script-src {hashes} 'wasm-unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src {files} data: blob:; media-src {files} data:; connect-src data: blob:; worker-src blob:; "
    "base-uri 'none'; form-action 'none'"
)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"inline": inline, "number": number, "file_size": file_size, "base64": in_base64}
    return environment


def render(template: str, *, scripts: tuple[str, ...] = (), files: bool = False, **values: object) -> str:
    """Render a template with the given values. The values are HTML-escaped.

    Args:
        template: Name of the template.
        scripts: Paths of the page's scripts, relative to templates/. They are embedded.
        files: Whether the page may show images and videos from files beside it.
        **values: Variables of the template.

    Returns:
        The page.
    """
    texts = [_script(name) for name in scripts]
    hashes = " ".join(f"'sha256-{_encode(hashlib.sha256(text.encode()).digest())}'" for text in texts)
    policy = _POLICY.format(hashes=hashes, files="'self' file:" if files else "")
    return _environment().get_template(template).render(values, policy=policy, scripts=[Markup(t) for t in texts])


@cache
def _script(name: str) -> str:
    """Return the text of a script without the address of its source map, which browsers would request."""
    text = (_FOLDER / name).read_text(encoding="utf-8").partition("//# sourceMappingURL=")[0]
    assert "</script" not in text.lower() and "<script" not in text.lower()
    return text


def inline(file: Path | bytes, suffix: str = "") -> str:
    """Return the contents of a file as a data URL. Contents that are not in a file need a `suffix`, such as ".zip"."""
    data = file.read_bytes() if isinstance(file, Path) else file
    return f"data:{_MEDIA_TYPES[suffix or Path(str(file)).suffix]};base64,{_encode(data)}"


def in_base64(path: Path) -> str:
    """Return the contents of a file in Base64."""
    return _encode(path.read_bytes())


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def number(value: object, unit: str = "") -> str:
    """Format a metric for display.

    Numbers have three significant digits, or no decimals if their absolute value is at least 100 or they are counts.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "not a number" if value is None else str(value)
    if not abs(value) < 1e300:
        return "not a number"
    whole = abs(value) >= 100 or (unit == "count" and value == int(value))
    return f"{value:,.0f}" if whole else f"{value:#.3g}"


def file_size(size: int) -> str:
    """Format a number of bytes in kB or MB (10^6 bytes)."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{math.ceil(size / 1e3)} kB"
