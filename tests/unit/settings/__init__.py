"""The environment, and what is wrong with it."""
