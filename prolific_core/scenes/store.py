"""Files that store the particles in safetensors format, with a JSON file for their configuration."""

import json
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from prolific_core.config import FieldConfig, NerfConfig
from prolific_core.scenes.material_field import MaterialField
from prolific_core.scenes.radiance_field import RadianceField


def save_fields(folder: Path, config: FieldConfig, fields: list[RadianceField]) -> None:
    """Write the configuration to field.json and the state of each field k to particle_<k>.safetensors.

    Args:
        folder: An existing folder.
        config: The fields' configuration.
        fields: The fields of particles 0, 1, ... in order.
    """
    (folder / "field.json").write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
    for index, field in enumerate(fields):
        state = {name: value.cpu().contiguous() for name, value in field.state_dict().items()}
        save_file(state, folder / f"particle_{index}.safetensors")


def has_fields(folder: Path) -> bool:
    """Return whether a folder has fields that were written by `save_fields`."""
    return (folder / "field.json").is_file()


def load_fields(
    folder: Path, *, device: str | torch.device, backend: str, train_config: NerfConfig | None = None
) -> list[RadianceField]:
    """Read the fields written by `save_fields`.

    Args:
        folder: The folder that was passed to `save_fields`.
        device: Device of the fields.
        backend: Kernel backend; see `render.backends`.
        train_config: Training settings; see `RadianceField`.
    """
    config = FieldConfig.model_validate_json((folder / "field.json").read_text())
    fields = []
    while (path := folder / f"particle_{len(fields)}.safetensors").exists():
        # The initial values do not matter, because `load_state_dict` replaces all of them.
        field = RadianceField(config, torch.Generator(), backend, train_config=train_config).to(device)
        field.load_state_dict(load_file(path))
        fields.append(field)
    return fields


def save_materials(folder: Path, materials: list[MaterialField]) -> None:
    """Write the networks of the materials of each particle k to materials_<k>.safetensors.

    Args:
        folder: A folder that also holds the fields; see `save_fields`.
        materials: The materials of particles 0, 1, ... in order.
    """
    for index, material in enumerate(materials):
        state = {name: value.cpu().contiguous() for name, value in material.surface.state_dict().items()}
        save_file(state, folder / f"materials_{index}.safetensors")


def load_materials(folder: Path, fields: list[RadianceField]) -> list[MaterialField] | None:
    """Read the materials written by `save_materials`.

    Args:
        folder: The folder that was passed to `save_materials`.
        fields: The fields in the same folder; see `load_fields`.

    Returns:
        The materials, or None if the folder holds none.
    """
    if not (folder / "materials_0.safetensors").exists():
        return None
    materials = []
    for index, field in enumerate(fields):
        device = field.occupancy.density.device
        material = MaterialField(field, torch.Generator()).to(device)
        material.surface.load_state_dict(load_file(folder / f"materials_{index}.safetensors", device=str(device)))
        materials.append(material)
    return materials


def save_mesh(folder: Path, index: int, vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    """Write the mesh of particle k to mesh_<k>.safetensors.

    Args:
        folder: An existing folder.
        index: Index k of the particle.
        vertices: World positions (V, 3).
        faces: Vertex indices (F, 3).
    """
    tensors = {"vertices": vertices.detach().cpu().contiguous(), "faces": faces.cpu().contiguous()}
    save_file(tensors, folder / f"mesh_{index}.safetensors")


def load_meshes(folder: Path, device: str | torch.device) -> list[tuple[Tensor, Tensor]]:
    """Read the vertices (V, 3) and faces (F, 3) of all particles in order."""
    meshes = []
    while (path := folder / f"mesh_{len(meshes)}.safetensors").exists():
        tensors = load_file(path, device=str(device))
        meshes.append((tensors["vertices"], tensors["faces"]))
    return meshes
