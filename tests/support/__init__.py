"""Real peers for the tests: a scripted upstream, a raw client, a store, the gateway as a process."""
