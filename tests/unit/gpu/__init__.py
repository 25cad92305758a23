"""What gateways tell each other of themselves."""
