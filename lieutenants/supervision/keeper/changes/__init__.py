"""Reads what has changed in a folder with a git repository: `python3 keeper.pyz changes`.

Runs with the rights of the agent that works there, since the repository is in its hands. One
request is read from stdin, a JSON object:

    op          "head", "list" or "file"
    folder      absolute path, or one that begins with `~/`
    upward      whether the repository may be in a folder above
    repository  a folder below it that is looked at instead, as in `names`; empty for itself
    base        see `bases`: {"kind", "commit", "at", "rev"}
    since       files that were not written since this time (epoch) are left out; null for all
    now         the time by the clock that `since` and `at` belong to
    path, old_path, max_lines     of a file, for "file"
    seconds     how long it may take

The answer is a JSON object on stdout, of bounded size: `{"problem": code, "detail": text}`, or what
the modules `heads`, `listing` and `one_file` return. Nothing of the repository's configuration is
used but a few harmless values, see `git`.
"""
