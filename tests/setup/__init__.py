"""Tests of the set-up with real packages from a real index: what the other tests only find done. Needs a network."""
