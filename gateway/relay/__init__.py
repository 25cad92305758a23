"""Relays one request: admission, the exchange, the end of its stream, and what its task becomes."""
