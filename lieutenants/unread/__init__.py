"""Finished turns that a person has not looked at yet."""
