"""The dialect `command`: a program that runs once for each message."""
