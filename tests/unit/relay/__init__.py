"""The relay by itself: phases, outcomes, and the ends of streams."""
