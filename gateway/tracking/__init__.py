"""The tasks that this process has in flight, and how their statuses get to the store and to pollers."""
