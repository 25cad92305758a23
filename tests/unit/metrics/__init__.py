"""What is counted, and the text that Prometheus reads."""
