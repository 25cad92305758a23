"""Ollama's side: a pool of connections, and what its answers are made of."""
