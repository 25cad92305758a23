"""Stages, documents, and which status may follow which."""
