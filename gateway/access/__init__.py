"""Who may use the gateway: API keys, and the pages of a browser."""
