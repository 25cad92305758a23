"""Deadlines, and peers that vanish."""
