"""Render a GLB file with Blender from a given camera. Run by a Python that has bpy.

The arguments are the GLB file, the PNG file to write, and a JSON file with the pose in the axes of Blender, the field
of view in radians, and the height and width of the image.
"""

import json
import sys

import bpy  # pyright: ignore[reportMissingImports]
import mathutils  # pyright: ignore[reportMissingImports]

glb, png, camera_file = sys.argv[1:]
with open(camera_file) as file:
    wanted = json.load(file)

bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=glb)
scene = bpy.context.scene
camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
camera.matrix_world = mathutils.Matrix(wanted["pose"])
camera.data.sensor_fit = "HORIZONTAL"
camera.data.angle = wanted["fov"]
camera.data.clip_start = 0.01
scene.collection.objects.link(camera)
scene.camera = camera
scene.render.engine = "CYCLES"  # the only engine that needs neither a GPU nor a display
scene.cycles.device = "CPU"
scene.cycles.samples = 16
scene.cycles.use_denoising = False
scene.cycles.pixel_filter_type = "BOX"
scene.cycles.filter_width = 1.0
scene.render.threads_mode, scene.render.threads = "FIXED", 1
scene.render.resolution_x = scene.render.resolution_y = wanted["side"]
scene.render.film_transparent = True
scene.view_settings.view_transform = "Standard"  # sRGB, without a film look
scene.render.image_settings.file_format = "PNG"
scene.render.image_settings.color_mode = "RGBA"
scene.render.filepath = png
bpy.ops.render.render(write_still=True)
