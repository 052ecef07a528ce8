"""What this process takes while it runs, for the curves under "System metrics" in MLflow."""

import sys

import psutil


class Usage:
    """Looks at the process; a look takes a tenth of a millisecond."""

    def __init__(self):
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first look counts from here

    def look(self) -> dict[str, float]:
        """Memory held now, and processor time since the last look (100: one core)."""
        seen = {
            "system/cpu_percent": self._process.cpu_percent(),
            "system/memory_mb": self._process.memory_info().rss / 2**20,
        }
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_initialized():
            seen["system/gpu_memory_mb"] = torch.cuda.memory_reserved() / 2**20
        return {name: round(value, 1) for name, value in seen.items()}
