"""The gateway's counters, and the text that Prometheus reads."""
