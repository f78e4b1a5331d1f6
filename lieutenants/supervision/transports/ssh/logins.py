"""Logins for one connection: at most one waits for its turn or is under way."""

from __future__ import annotations

import logging
from typing import NamedTuple

from bootloader.exceptions import NoSuchMachine
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.session import RelaySession, open_session
from reef_site.common.errors import ReefError

logger = logging.getLogger(__name__)


class Login(NamedTuple):
    """Result of a login: the session, or else why there is none."""

    session: RelaySession | None
    problem: str = ""
    # The machine is gone for good.
    is_lost: bool = False


class Logins:
    """State of the logins. The caller holds the link's lock."""

    def __init__(self) -> None:
        # How many were made.
        self.count = 0
        self._is_queued = self._is_urgent = self._is_under_way = False

    @property
    def is_busy(self) -> bool:
        """Return whether a login waits for its turn or is under way."""
        return self._is_queued or self._is_under_way

    def queue(self, *, is_awaited: bool) -> bool:
        """Return whether a login is to be queued: none is, or an urgent one is to overtake it."""
        if self._is_under_way or (self._is_queued and (self._is_urgent or not is_awaited)):
            return False
        self._is_queued, self._is_urgent = True, is_awaited
        return True

    def begin(self, *, is_wanted: bool) -> bool:
        """Return whether the login whose turn it is has to be made.

        One that somebody waits for later may be queued twice.
        """
        if not self._is_queued:
            return False
        self._is_queued = self._is_urgent = False
        self._is_under_way = is_wanted
        return is_wanted

    def end(self) -> None:
        """Note that the login is over."""
        self._is_under_way = False
        self.count += 1


def log_in(place: Place) -> Login:
    """Log in and start the relay. Takes as long as the machine needs."""
    try:
        return Login(open_session(place))
    except NoSuchMachine as error:
        return Login(None, str(error), is_lost=True)
    except ReefError as error:
        return Login(None, str(error))
    except Exception as error:
        logger.exception("cannot connect to %s", place)
        return Login(None, f"{type(error).__name__}: {error}")
