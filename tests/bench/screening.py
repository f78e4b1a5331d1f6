"""Bench of the screening of secrets: `python tests/bench/screening.py`.

(a) a 5 MB answer that an agent streams and then tells whole, as the follower takes it in, with 50
secrets and with no screening at all; (b) the pure core on texts of several kinds, with and without
a secret in them; (c) one small piece of a stream. Processor time, the best of several tries.
"""

from __future__ import annotations

import os
import random
import string
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from versconfig.screening.screen import Screen, Secret

CHECKOUT = Path(__file__).resolve().parents[2]
SIZE = 5_000_000
DELTA = 64 << 10
SECRETS = 50
TRIES = 7
ALPHABET = string.ascii_letters + string.digits + "_-"


def secrets() -> list[Secret]:
    """Return keys of usual lengths, a few of them short."""
    from versconfig.screening.screen import Secret

    chance = random.Random(50)
    lengths = (10, 20, 32, 40, 40, 51, 51, 64, 108, 164)
    return [
        Secret(f"K{each}", "".join(chance.choices(ALPHABET, k=lengths[each % len(lengths)])))
        for each in range(SECRETS)
    ]


def texts() -> dict[str, str]:
    chance = random.Random(5)
    words = [
        "".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 10)))
        for _ in range(4000)
    ]
    prose = " ".join(chance.choices(words, k=SIZE // 5))[:SIZE]
    lines = "".join(
        f"2026-11-29 12:00:{n % 60:02} INFO worker.{n % 7}: job {n:07x} done\n"
        for n in range(SIZE // 40)
    )
    noise = "".join(chance.choices(ALPHABET + "+/=\n", k=SIZE))
    return {"prose": prose, "log lines": lines[:SIZE], "like base64": noise}


def best(work: Callable[[], Any]) -> float:
    """Return the processor time in milliseconds."""
    taken = []
    for _ in range(TRIES):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken) * 1000


class Unscreened:
    """Replacement of `TranscriptScreening` without any screening."""

    def feed(self, _block: Any, text: str, _offset: int) -> str:
        return text

    def finish(self, _block: Any) -> str:
        return ""

    def forget(self, _block: Any) -> None:
        """Do nothing."""

    def cover(self, value: Any) -> Any:
        return value

    cover_message = cover

    def take_names(self) -> list[str]:
        return []


def feed_answer(records: list[list[Any]], screen: Screen | None) -> None:
    """Feed an answer to a session piece by piece, as the follower does."""
    from lieutenants.agents import dialect_of
    from lieutenants.models import Lieutenant, Process
    from lieutenants.sessions.recorder import Bookmarks, Recorder
    from lieutenants.sessions.session import Session
    from lieutenants.sessions.state import State
    from lieutenants.sessions.write_batch import WriteBatch

    lieutenant = Lieutenant(name="ada", role="bench")
    process, dialect = Process(lieutenant=lieutenant), dialect_of(lieutenant)
    recorder = Recorder(process, lieutenant, dialect=dialect, bookmarks=Bookmarks())
    if screen is None:
        recorder.screening = Unscreened()  # type: ignore[assignment]
    else:
        recorder.screening.screen = screen
    session = Session(recorder, State(is_ready=True))
    for record in records:
        session.apply([record], WriteBatch(), 0.0)


def answer(text: str) -> list[list[Any]]:
    pieces = [["t", 0, text[start : start + DELTA]] for start in range(0, len(text), DELTA)]
    content = [{"type": "text", "text": text}]
    message = {"role": "assistant", "content": content, "stopReason": "stop", "model": "m"}
    return [*pieces, ["e", 1, {"type": "message_end", "message": message}]]


def measure(name: str, text: str, known: list[Secret], screen: Screen) -> None:
    records = answer(text)
    dirty = answer(f"{text[: SIZE // 3]} {known[8].value} {text[SIZE // 3 :]}")
    without = best(lambda: feed_answer(records, None))
    clean = best(lambda: feed_answer(records, screen)) - without
    covered = best(lambda: feed_answer(dirty, screen)) - without
    alone = best(lambda: screen.cover(text))
    print(
        f"5 MB of {name}: {without:.0f} ms unscreened, {clean:+.0f} ms, with a secret in it "
        f"{covered:+.0f} ms; the text alone {alone:.0f} ms"
    )


def first_time(known: list[Secret]) -> float:
    from versconfig.screening import patterns
    from versconfig.screening.screen import Screen

    begun = time.process_time()
    patterns.whole_pattern.cache_clear()
    patterns.partial_pattern.cache_clear()
    Screen(known, own=known[::5])
    return (time.process_time() - begun) * 1000


def after_change() -> float:
    """Return the slowest of several changes to the longest value of a key, in milliseconds."""
    from versconfig.screening.screen import Screen, Secret

    chance = random.Random(200)
    known = [Secret(f"K{n}", "".join(chance.choices(ALPHABET, k=108))) for n in range(200)]
    Screen(known)
    taken = []
    for _ in range(TRIES):
        new = Secret("NEW", "".join(chance.choices(ALPHABET, k=512)))
        begun = time.process_time()
        Screen([new, *known[1:]], own=[new])
        taken.append(time.process_time() - begun)
    return max(taken) * 1000


def main() -> None:
    from versconfig.screening.screen import Screen

    known = secrets()
    # A fifth of the secrets are the agent's own.
    screen = Screen(known, own=known[::5])
    print(f"compiling {len(known)} secrets: {first_time(known):.0f} ms")
    print(f"after a change of one among 200: {after_change():.1f} ms")
    for name, text in texts().items():
        measure(name, text, known, screen)
    piece = "some words of an answer that comes in pieces, "
    each = best(lambda: [screen.feed(piece) for _ in range(10_000)]) / 10
    print(f"a piece of {len(piece)} characters: {each:.1f} µs")


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))
    with tempfile.TemporaryDirectory(prefix="reef-bench-") as folder:
        os.environ["REEF_DATA_DIR"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "reef_site.settings"
        import django

        django.setup()
        main()
