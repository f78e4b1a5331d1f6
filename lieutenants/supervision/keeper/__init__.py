"""The program beside each agent: it starts the agent, holds its pipes and writes its journal.

It is built into one file (`program`), which runs without the rest of reef, on any machine:
standard library only, Python 3.8 or newer, relative imports.

A run directory belongs to one run. It contains keeper.json (pids and start times), journal.jsonl
(the agent's output, slimmed), stderr.log (its tail), keeper.log (our own problems), control.sock
(requests) and control.key, which each request must carry: the agent may be able to connect, but
not to read the key. Environment and arguments of the agent are never written to disk. The keeper
has one thread, which sleeps in poll(). The spec's `isolation` has the rules for `sandbox`.
"""
