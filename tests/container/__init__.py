"""The image and the compose files as they are, run by a real Docker engine."""
