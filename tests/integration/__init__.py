"""Real processes: the gateway, a store, a scripted or an embedded Ollama."""
