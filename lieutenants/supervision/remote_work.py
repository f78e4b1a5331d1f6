"""Work that waits for VMs: in threads of its own, so that a slow VM holds up nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lieutenants.supervision.daemon_pool import DaemonPool

logger = logging.getLogger(__name__)

AT_ONCE = 16
_pool = DaemonPool(AT_ONCE, "reef-settle-remote")
_running: set[str] = set()
_lock = threading.Lock()


def submit(key: str, work: Callable[[], object]) -> None:
    """Run `work` soon, unless earlier work of this key still runs: a reconcile comes back to it."""
    with _lock:
        if key in _running:
            return
        _running.add(key)

    def run() -> None:
        try:
            work()
        except Exception:
            logger.exception("work for %s failed; the next reconcile tries again", key)
        finally:
            with _lock:
                _running.discard(key)

    _pool.submit(run)
