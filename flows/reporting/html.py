"""What our static pages share: one look, pictures inside the page, no script, nothing from a network."""

import base64
import html
from pathlib import Path

_KINDS = {".png": "image/png", ".mp4": "video/mp4", ".webp": "image/webp"}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #667085; --paper: #fbfaf8; --card: #fff;
  --line: #e4e2dd; --accent: #b4532a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #9aa1ad; --paper: #16181c;
  --card: #1e2126; --line: #31353c; --accent: #e58e63; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; }
a { color: var(--accent); } p { margin: .4rem 0; } .soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem; }
.hero { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; margin-top: 1.5rem; align-items: start; }
.hero img, .hero video { width: 100%; display: block; border-radius: 6px; image-rendering: auto; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; padding-top: .5rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
.grid img { width: 100%; display: block; border-radius: 6px; }
.grid h3 { margin: 0 0 .2rem; font-size: 1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
td, th { text-align: left; padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td.n, th.n { text-align: right; padding-right: 0; }
td { overflow-wrap: anywhere; }
code, pre { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; }
details { margin: .4rem 0; } summary { cursor: pointer; }
.chips span { display: inline-block; border: 1px solid var(--line); background: var(--card); border-radius: 99px;
  padding: .1rem .7rem; margin: .2rem .3rem .2rem 0; font-size: .85rem; }
svg.curve { width: 100%; height: 4.2rem; display: block; margin-top: .6rem; }
svg.curve polyline { fill: none; stroke: var(--accent); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
@media (max-width: 44rem) { .hero { grid-template-columns: 1fr; } }
"""


def document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def inline(path: Path) -> str:
    """A file as a data address, so that the page is whole wherever it is sent."""
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def number(value: object) -> str:
    """Four digits are what a reader compares; a count is written out."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "not a number" if value is None else str(value)


def table(head: list[str], rows: list[list[object]], *, numbers: int = 1) -> str:
    """The last `numbers` columns are set to the right."""

    def cells(tag: str, values: list[object]) -> str:
        first = len(values) - numbers
        return "".join(
            f"<{tag}{' class=n' if i >= first else ''}>{escape(value)}</{tag}>" for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def curve(points: list[tuple[float, float]]) -> str:
    """A small line, scaled to its own range (its outer hundredth aside, which spikes would fill)."""
    if len(points) < 2:
        return ""
    values = sorted(y for _, y in points)
    low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    left, right = points[0][0], points[-1][0]
    if right == left:
        return ""

    def place(x: float, y: float) -> str:
        share = (min(max(y, low), high) - low) / (high - low) if high > low else 0.5
        return f"{(x - left) / (right - left) * 300:.1f},{58 - share * 56:.1f}"

    line = " ".join(place(x, y) for x, y in points)
    return f'<svg class="curve" viewBox="0 0 300 60" preserveAspectRatio="none"><polyline points="{line}"/></svg>'
