"""Runs of the small world that are killed again and again, and compared with one that nobody touched."""
