"""Traces: the parent that a request names, what a span says, and the thread that sends it."""
