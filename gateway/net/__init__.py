"""What the sockets of both sides share: deadlines, and peers that vanish."""
