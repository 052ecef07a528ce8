"""The Toybox world: object families, captions and a renderer."""
