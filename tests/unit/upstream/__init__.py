"""Ollama as a peer, by itself: connections, messages, and the names of models."""
