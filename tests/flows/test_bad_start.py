"""A bad start of the geometry stage is reported before any work."""

import pytest

from flows.orchestration import preflight
from prolific_core.errors import InputError

ID = "a-red-mug"


@pytest.mark.parametrize("start", ["no-such.obj", "params.yaml"])
def test_a_bad_mesh_file_is_one_line_before_any_work(project, monkeypatch, start):
    monkeypatch.chdir(project.root)
    path = project.prompt_folder(ID) / "prompt.yaml"
    path.write_text(path.read_text().replace("geometry: {}", f"geometry: {{start: {start}}}"))
    with pytest.raises(InputError, match="geometry.start: .*(does not exist|must be a mesh file)") as error:
        preflight.check(project, ID)
    assert "\n" not in str(error.value) and error.value.exit_status == 2
    assert not (project.root / "runs").exists()
