"""What runs around the gateway: the launcher (PID 1), supervisord's listener, and the health check.

These three are programs of their own on the standard library; the launcher also runs supervisord. They share
`programs` (what each program is given), `output` (how lines look) and `family` (what dies with the launcher). None
imports the gateway.
"""
