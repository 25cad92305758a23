"""Shared by the sockets of both sides: deadlines, and peers that vanish."""
