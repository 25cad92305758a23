"""API keys, files of secrets, and the pages of a browser."""
