"""The tasks of one process, and how their statuses get to the store."""
