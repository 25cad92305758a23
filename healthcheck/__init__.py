"""What runs around the gateway: the launcher (PID 1), supervisord's listener, and the health check.

Each module is a program of its own on the standard library; the launcher also runs supervisord. None imports
another, and none imports the gateway.
"""
