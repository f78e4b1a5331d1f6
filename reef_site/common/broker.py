"""The connection to Redis: publishing, sending Celery tasks, and a check that it answers.

Only `events`, `dispatch` and the scheduler send through this module.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import redis
from celery import current_app
from django.conf import settings
from kombu import Producer
from redis.backoff import NoBackoff
from redis.retry import Retry

from reef_site.common.sender import ERRORS, Sender

logger = logging.getLogger(__name__)

# For one command. Only the sender's thread ever waits for so long.
TIMEOUT_SECONDS = 1.0
# How long a request waits for the answer of a ping.
PING_SECONDS = 0.15


@functools.cache
def client() -> redis.Redis:
    """Return this process's connection pool."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        health_check_interval=30,
        # A connection that broke since it was last used is made anew, once. A hang is not repeated.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


def publish(channel: str, payload: str) -> None:
    """Publish from the sender's thread. Nobody waits for it, and it may be dropped."""
    _sender.submit(lambda: client().publish(channel, payload))


Recovered = Callable[[float], None]
_listeners: list[Recovered] = []


def on_recovery(listener: Recovered) -> Recovered:
    """Have `listener` called, with the seconds, after a time in which something was dropped."""
    _listeners.append(listener)
    return listener


def _recovered(seconds: float) -> None:
    for listener in _listeners:
        listener(seconds)


_sender = Sender(on_recovery=_recovered)


# -- tasks ---------------------------------------------------------------------------------------


def send_task(
    name: str,
    args: Sequence[object] = (),
    *,
    queue: str | None = None,
    countdown: float | None = None,
) -> None:
    """Send a Celery task from the sender's thread. Nobody waits for it, and it may be dropped."""
    _sender.submit(lambda: _send(name, list(args), {}, queue=queue, countdown=countdown or None))


def send_task_now(name: str, kwargs: dict[str, Any]) -> bool:
    """Send a Celery task from this thread; return whether that went well."""
    return _sender.send_now(lambda: _send(name, [], kwargs))


class _Producers(threading.local):
    """One producer for each thread, with shorter time-outs than those of consumers."""

    producer: Producer | None = None

    def get(self) -> Producer:
        """Return the producer of this thread."""
        if self.producer is None:
            options = {
                **settings.CELERY_BROKER_TRANSPORT_OPTIONS,
                "socket_timeout": TIMEOUT_SECONDS,
                "socket_connect_timeout": TIMEOUT_SECONDS,
                "max_retries": 1,
            }
            connection = current_app.connection_for_write(transport_options=options)
            self.producer = Producer(connection, auto_declare=False)
        return self.producer

    def forget(self) -> None:
        """Close the connection; the next `get` makes a new one."""
        producer, self.producer = self.producer, None
        if producer is not None and (connection := producer.connection) is not None:
            try:
                connection.release()
            except ERRORS as error:
                logger.debug("a broken connection cannot be closed: %s", error)


_producers = _Producers()


def _send(name: str, args: list[object], kwargs: dict[str, Any], **options: Any) -> None:
    producer = _producers.get()
    try:
        current_app.send_task(name, args, kwargs, producer=producer, **options)
    except BaseException:
        _producers.forget()
        raise


# -- does it answer? -----------------------------------------------------------------------------


class _Pinger:
    """Pings Redis from a thread, one ping at a time; callers wait for a moment only."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reef-ping")
        self._lock = threading.Lock()
        self._pending: Future[None] | None = None

    def ping(self) -> str:
        """Return an empty text if Redis answers, else the name of the error."""
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending = self._pool.submit(_ping)
            pending = self._pending
        try:
            pending.result(PING_SECONDS)
        except TimeoutError:
            return "TimeoutError"
        except ERRORS as error:
            return type(error).__name__
        return ""


def _ping() -> None:
    client().ping()
    _sender.circuit.close()


_pinger = _Pinger()


def ping() -> tuple[str, float]:
    """Return the name of the error (empty if Redis answers) and the milliseconds it took.

    Waits for PING_SECONDS at most.
    """
    began = time.monotonic()
    wrong = _pinger.ping()
    return wrong, round((time.monotonic() - began) * 1000, 2)


def flush(seconds: float = 1.0) -> None:
    """Wait until all messages so far are sent, at most for so long; for tests and commands."""
    _sender.flush(seconds)
