"""Whether the GPU works."""
