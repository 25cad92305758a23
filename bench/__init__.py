"""Reproducible measurements of the gateway beside its peers; `python -m bench` runs them.

Never imported by the product.
"""
