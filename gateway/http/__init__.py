"""The client's side: connections, requests and answers, and the limits on them."""
