"""Names of the GPUs that this process may use, without importing torch."""

import os
from pathlib import Path

from prolific_core.errors import InputError

DRIVER = Path("/proc/driver/nvidia/gpus")  # the NVIDIA driver's folder, with one entry per GPU


def visible() -> list[str]:
    """Return the GPUs in the form of CUDA_VISIBLE_DEVICES, or an empty list if there are none or they are unknown."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(len(list(DRIVER.iterdir())))] if DRIVER.is_dir() else []
    names = [name.strip() for name in given.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names  # CUDA ignores what follows -1


def choose(names: str) -> list[str]:
    """Return the GPUs that a user names, in the form of CUDA_VISIBLE_DEVICES.

    A number counts the GPUs that this process may use, so that 0 is the first of them, as in torch. UUIDs are kept.

    Raises an InputError if a name is neither, or if there are fewer GPUs than a number says.
    """
    limited = os.environ.get("CUDA_VISIBLE_DEVICES") is not None
    known, chosen = visible(), []
    for name in dict.fromkeys(part.strip() for part in names.split(",")):
        if name.startswith(("GPU-", "MIG-")):
            chosen.append(name)
        elif not name.isdecimal():
            raise InputError(f"--gpus must be GPU numbers such as 0,1, or UUIDs such as GPU-5f2c..., got {names}")
        elif not limited:
            chosen.append(str(int(name)))
        elif int(name) < len(known):
            chosen.append(known[int(name)])
        else:
            count = f"{len(known)} GPU{'' if len(known) == 1 else 's'}"
            raise InputError(f"--gpus {names}: CUDA_VISIBLE_DEVICES allows only {count}, counted from 0")
    return chosen
