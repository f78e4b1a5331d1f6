"""Runs on a VM at the far end of one SSH channel, for all lieutenants there.

Standalone (standard library, Python 3.8 or newer). These modules are sent over the channel at each
connection and never stored. Requests are JSON lines on stdin; `op` names one:

    follow    {r, dir, at}: push the journal of this run from offset `at` on, as number `r`
    ack       {r, at}: all before `at` is stored, so more may be pushed
    unfollow  {r}
    ping
    others    {n, …}: answered by {n, ok, …} or {n, ok: false, kind, error}; see OPERATIONS

Requests about one run carry the `generation` of the follower. Those of an older one than the run's
keeper has seen are refused: {n, ok: false, kind: "Overtaken", error, generation}.

On stdout: the line READY, then one zlib stream of JSON lines. A line with `z` is followed by that
many bytes of a journal:

    {hello: {…}}, {pong: 1}, {n, ok, …}
    {got}             so many bytes of a request have arrived that is not complete yet
    {r, o, z}         bytes of journal `r` at offset `o`
    {r, o, gap}       the part from `o` to `gap` was released
    {r, out}          why its keeper cannot be reached; empty: it can
    {r, gone: true}   its keeper has ended, and all of its journal was sent

Paths may begin with `~/`. The relay ends with its connection; keepers and agents stay.
"""
