"""Checks that the watchdog makes of each process: for loss, and for limits on silence."""
