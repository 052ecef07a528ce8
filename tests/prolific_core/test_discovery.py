"""Several threads parse files at the same time, as in a sweep with several workers."""

import gc
import sys
import threading

from prolific_core.discovery import parse_module
from tests.conftest import ROOT


class Garbage:
    """An object of a reference cycle, whose finaliser lets other threads run."""

    def __init__(self):
        self.cycle = self

    def __del__(self):
        sum(range(50))


def test_threads_parse_files_at_the_same_time():
    files, errors = sorted((ROOT / "prolific_core").glob("*.py")), []
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()

    def work() -> None:
        for file in files * 4:
            _ = [Garbage() for _ in range(5)]
            try:
                parse_module(file)
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
    assert not errors
