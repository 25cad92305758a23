"""The program that pulls the models of OLLAMA_PULL_MODELS."""
