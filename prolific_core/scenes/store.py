"""Particles on disk: what one stage hands to the next, as safetensors beside a JSON of their shape."""

import json
from pathlib import Path

import torch
from torch import Tensor

from prolific_core.config import FieldConfig
from prolific_core.scenes.radiance_field import RadianceField


def particle_file(folder: Path, index: int) -> Path:
    return folder / f"particle_{index}.safetensors"


def save_fields(folder: Path, config: FieldConfig, fields: list[RadianceField]) -> None:
    """field.json, and particle_<k>.safetensors with everything a field holds."""
    from safetensors.torch import save_file

    (folder / "field.json").write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
    for index, field in enumerate(fields):
        save_file(
            {name: value.cpu().contiguous() for name, value in field.state_dict().items()}, particle_file(folder, index)
        )


def load_fields(folder: Path, *, device: torch.device, backend: str) -> list[RadianceField]:
    """The fields of `save_fields`, in order."""
    from safetensors.torch import load_file

    config = FieldConfig.model_validate_json((folder / "field.json").read_text())
    fields = []
    while (path := particle_file(folder, len(fields))).exists():
        # Every value is about to be replaced: the generator only fills the shapes.
        field = RadianceField(config, generator=torch.Generator(), backend=backend).to(device)
        field.load_state_dict(load_file(path))
        fields.append(field)
    return fields


def save_mesh(folder: Path, index: int, vertices: Tensor, faces: Tensor) -> None:
    """mesh_<k>.safetensors: vertices (V, 3) float32 in world axes, faces (F, 3) int64."""
    from safetensors.torch import save_file

    tensors = {"vertices": vertices.detach().cpu().contiguous(), "faces": faces.cpu().contiguous()}
    save_file(tensors, folder / f"mesh_{index}.safetensors")


def load_meshes(folder: Path, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """(vertices, faces) of every particle, in order."""
    from safetensors.torch import load_file

    meshes = []
    while (path := folder / f"mesh_{len(meshes)}.safetensors").exists():
        tensors = load_file(path, device=str(device))
        meshes.append((tensors["vertices"], tensors["faces"]))
    return meshes
