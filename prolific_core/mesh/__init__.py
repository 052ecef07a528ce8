"""Extraction, cleaning, texturing and export of triangle meshes.

- `tetrahedra.py`: tetrahedral grids of signed distances.
- `extract.py`: marching tetrahedra, from signed distances to a mesh.
- `losses.py`: smoothness losses for an optimised surface.
- `clean.py`: repair, smoothing and decimation.
- `unwrap.py`: texture coordinates.
- `bake.py`: baking of a colour field into a texture.
- `glb.py`: encoding and decoding of binary glTF.
- `export.py`: writing of OBJ and GLB files, and loading of GLB files.
- `textured_view.py`: rendering of an exported mesh with its texture.
"""
