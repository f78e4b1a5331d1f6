"""Screening: stored and displayed texts are searched for every secret that reef knows."""
