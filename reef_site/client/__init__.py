"""Client commands of `reef`: standard library only, without Django, so that they start fast."""
