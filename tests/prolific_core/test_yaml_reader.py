"""Reading YAML files again."""

from prolific_core import yaml_reader
from prolific_core.yaml_reader import read_yaml


def test_a_file_is_parsed_once_and_every_reader_has_a_value_of_its_own(tmp_path, monkeypatch):
    yaml_reader._parse_once.cache_clear()
    parsed, parse = [], yaml_reader.parse_yaml
    monkeypatch.setattr(yaml_reader, "parse_yaml", lambda text, shown: parsed.append(text) or parse(text, shown))
    path = tmp_path / "params.yaml"
    path.write_text("nerf: {steps: 20}")
    first = read_yaml(path, "params.yaml")
    first["nerf"]["steps"] = 30
    assert read_yaml(path, "params.yaml") == {"nerf": {"steps": 20}} and len(parsed) == 1
    path.write_text("nerf: {steps: 10}")
    assert read_yaml(path, "params.yaml") == {"nerf": {"steps": 10}} and len(parsed) == 2
