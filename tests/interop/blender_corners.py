"""Import an OBJ and a GLB file with Blender and print what it sees as JSON. Run by a Python that has bpy."""

import json
import sys

import bpy  # pyright: ignore[reportMissingImports]


def read(path):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.endswith(".obj"):
        bpy.ops.wm.obj_import(filepath=path)
    else:
        bpy.ops.import_scene.gltf(filepath=path)
    (thing,) = [thing for thing in bpy.data.objects if thing.type == "MESH"]
    links = thing.data.materials[0].node_tree.links
    points = [list(thing.matrix_world @ vertex.co) for vertex in thing.data.vertices]
    return {
        "corners": [[points[i] for i in face.vertices] for face in thing.data.polygons],
        "textured": sorted(link.to_socket.name for link in links if link.to_node.type == "BSDF_PRINCIPLED"),
        "uvs": [list(corner.uv) for corner in thing.data.uv_layers[0].data],
    }


with open(sys.argv[1], "w") as file:
    json.dump([read(path) for path in sys.argv[2:]], file)
