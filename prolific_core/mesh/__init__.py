"""Extraction, cleaning, texturing and export of triangle meshes.

- `tetrahedra.py`: tetrahedral grid of signed distances.
- `extract.py`: marching tetrahedra, from signed distances to a mesh.
- `losses.py`: regularisers of an optimised surface.
- `clean.py`: repair, smoothing and decimation.
- `unwrap.py`: texture coordinates.
- `bake.py`: baking of a colour field into a texture.
- `glb.py`: binary glTF, encoding and decoding.
- `export.py`: OBJ and GLB files.
- `textured_view.py`: rendering of an exported mesh with its texture.
"""
