"""Both stores: what is written, read, listed and rebuilt."""
