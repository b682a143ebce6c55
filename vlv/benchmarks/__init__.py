"""Measurements of this package beside plain code that does the same work."""
