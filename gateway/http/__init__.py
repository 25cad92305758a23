"""The client's side: connections, requests and their answers, and their limits."""
