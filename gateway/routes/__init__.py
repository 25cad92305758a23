"""The gateway's own HTTP routes: thin, each asks one object and shapes its answer."""
