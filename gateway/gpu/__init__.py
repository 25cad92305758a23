"""Whether the GPU works: the devices of the start are still there, and Ollama uses them."""
