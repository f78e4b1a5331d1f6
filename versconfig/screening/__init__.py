"""Secrets stay secret: what is stored or shown is screened for every secret that reef knows."""
