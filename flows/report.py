from pathlib import Path
def write(project, id) -> Path:
    path = project.root / "reports" / f"{id}.html"
    path.parent.mkdir(exist_ok=True); path.write_text("report"); return path
