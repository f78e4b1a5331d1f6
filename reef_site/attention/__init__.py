"""What needs a look: one list over all kinds of trouble, and what was seen of it."""
