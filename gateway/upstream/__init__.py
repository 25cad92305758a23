"""Ollama's side: the pool of connections, one connection, and how an answer is read."""
