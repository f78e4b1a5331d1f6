"""Sizes of all parts of the database and of data folders, with their retention rules."""
