"""Rows of the bootloader, a file for each subject."""
