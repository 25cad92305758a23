"""What Prometheus makes of the metrics, and whether deploy/monitoring is what it says it is."""
