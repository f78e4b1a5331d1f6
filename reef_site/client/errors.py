"""Exit statuses of client commands, and the errors behind them."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
TIMED_OUT = 4
INTERRUPTED = 130

EXPLAINED = f"""\
exit status:
  {OK}  done
  {FAILED}  refused or failed; the reason is on stderr
  {USAGE}  wrong usage
  {UNREACHABLE}  reef cannot be reached
  {TIMED_OUT}  the time to wait ran out
"""


class ClientError(Exception):
    """A command that ends with one sentence on stderr and this exit status."""

    status = FAILED


class UsageError(ClientError):
    """Arguments or environment that cannot be used."""

    status = USAGE


class Unreachable(ClientError):
    """No response: no connection, no answer in time, or an answer that is not reef's."""

    status = UNREACHABLE


class TimedOut(ClientError):
    """The awaited event has not come in time."""

    status = TIMED_OUT


class Refused(ClientError):
    """A response with an error; the text is the server's sentence."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        # HTTP status; 0 if a tool reports the error.
        self.code = code
