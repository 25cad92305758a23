"""The client's side by itself: connections driven by hand, heads, targets, framing."""
