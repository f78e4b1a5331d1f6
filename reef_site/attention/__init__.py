"""The list of problems that need attention, over all apps, and which of them were dismissed."""
