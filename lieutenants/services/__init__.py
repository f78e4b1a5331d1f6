"""Use cases of lieutenants. Each function commits its rows, then events and tasks are sent.

`actor` is the requester: an authenticated caller, whose node is checked by `vmtree.permissions`, or
the name of an operator or of a part of reef.
"""

from lieutenants.services.adjusting import adjust
from lieutenants.services.commands import (
    abort,
    at_rest,
    destroy,
    destroy_all,
    discover,
    new_session,
    pause,
    restart,
    resume,
    start_for_message,
)
from lieutenants.services.creation import create, create_once
from lieutenants.services.creation_request import CreateLieutenant
from lieutenants.services.lookup import find, find_any, find_cursor, find_message, name_of
from lieutenants.services.next_signs import declare_sign, withdraw_sign
from lieutenants.services.queueing import change as change_message
from lieutenants.services.queueing import withdraw
from lieutenants.services.sending import send

__all__ = [
    "CreateLieutenant",
    "abort",
    "adjust",
    "at_rest",
    "change_message",
    "create",
    "create_once",
    "declare_sign",
    "destroy",
    "destroy_all",
    "discover",
    "find",
    "find_any",
    "find_cursor",
    "find_message",
    "name_of",
    "new_session",
    "pause",
    "restart",
    "resume",
    "send",
    "start_for_message",
    "withdraw",
    "withdraw_sign",
]
