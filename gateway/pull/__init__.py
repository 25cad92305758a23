"""The models of OLLAMA_PULL_MODELS: their names, and the program that pulls them."""
