"""Answers that outlive their client: kept in memory and in the store, read from there at any speed."""
