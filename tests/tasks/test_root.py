"""The root of a project."""

import os

import pytest

from prolific_core.errors import InputError
from tasks.runtime.root import MAX_BYTES, find_root
from tests.support.paths import path_of


@pytest.mark.parametrize("length", [MAX_BYTES, MAX_BYTES + 1])
def test_a_path_that_is_too_long_for_its_databases_is_refused(tmp_path, length):
    root = path_of(tmp_path, length)
    (root / "presets").mkdir(parents=True)
    (root / "params.yaml").write_text("")
    assert len(os.fsencode(root)) == length
    if length == MAX_BYTES:
        assert find_root(root) == root
    else:
        with pytest.raises(InputError, match="401 bytes.* up to 400; move the clone"):
            find_root(root)
