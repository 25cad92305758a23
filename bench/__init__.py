"""Repeatable measurements of the gateway beside its peers; `python -m bench` runs them.

The product never imports it.
"""
