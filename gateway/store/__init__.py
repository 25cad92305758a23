"""Where statuses outlive a request: Redis (or Valkey), or a table in memory."""
