"""The dashboard in a real Chromium; see tests/browser/conftest.py."""
