"""Bounds how many requests are with Ollama at once, and decides which of the others is next."""
