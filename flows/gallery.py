from pathlib import Path
Path("gallery").mkdir(exist_ok=True); Path("gallery/index.html").write_text("gallery")
