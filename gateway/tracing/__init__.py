"""Traces: each ended task becomes one OpenTelemetry span. Only `exporter` knows OpenTelemetry, and only with traces on
is anything of this package loaded.
"""
