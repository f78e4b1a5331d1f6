"""Transcripts: recording them, covering secrets in them, and preparing them for pages."""
