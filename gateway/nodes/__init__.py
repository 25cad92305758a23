"""The gateways that share one store: what each tells the others of itself."""
