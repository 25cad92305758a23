"""Keeps statuses beyond the end of a request: in Redis (or Valkey), or in a table in memory."""
