"""Decides which requests may use the gateway: by API key, and by a browser page's origin."""
