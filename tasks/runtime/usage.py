"""Memory and processor use of this process, for the curves under "System metrics" in MLflow."""

import sys

import psutil


class Usage:
    """Sampler of this process's resources; a sample takes a tenth of a millisecond."""

    def __init__(self):
        self._process = psutil.Process()
        self._process.cpu_percent()  # starts the interval of the first sample

    def sample(self) -> dict[str, float]:
        """Return the memory in use, and the processor time since the last sample (100 is one core)."""
        values = {
            "system/cpu_percent": self._process.cpu_percent(),
            "system/memory_mb": self._process.memory_info().rss / 2**20,
        }
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_initialized():
            values["system/gpu_memory_mb"] = torch.cuda.memory_reserved() / 2**20
        return {name: round(value, 1) for name, value in values.items()}
