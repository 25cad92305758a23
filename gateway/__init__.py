"""The Ollama Gateway: relays Ollama's OpenAI-compatible API and keeps the true state of every request."""

__version__ = "0.1.0"
