"""The world: families of objects, their captions, and a renderer."""
