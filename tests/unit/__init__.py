"""Each part by itself, with real peers where it has any."""
