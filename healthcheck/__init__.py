"""The programs around the gateway: the launcher (PID 1), supervisord's listener, and the health check.

Each of the three is a program of its own on the standard library; the launcher also runs supervisord. They share
`programs` (the environment of each program), `output` (the form of log lines) and `family` (which processes end with
the launcher). None imports the gateway.
"""
