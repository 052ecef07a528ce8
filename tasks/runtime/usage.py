"""Memory and CPU usage of this process, shown under "System metrics" in MLflow."""

import sys

import psutil


class Usage:
    """Sampler of the memory and CPU usage of this process. A sample takes 0.1 milliseconds."""

    def __init__(self):
        self._process = psutil.Process()
        self._process.cpu_percent()  # The first call only starts the measurement.

    def sample(self) -> dict[str, float]:
        """Return the memory in use (in MB) and the CPU usage since the last sample (in percent of one core)."""
        values = {
            "system/cpu_percent": self._process.cpu_percent(),
            "system/memory_mb": self._process.memory_info().rss / 2**20,
        }
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_initialized():
            values["system/gpu_memory_mb"] = torch.cuda.memory_reserved() / 2**20
        return {name: round(value, 1) for name, value in values.items()}
