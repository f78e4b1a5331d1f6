"""Rules of the reducer, by subject: functions from state, input and facts to state and effects.

Rules are pure: they know no database, no clock and no settings. Each module lists its rules in
`RULES`, by the type of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lieutenants.sessions.effects import Effect
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.state import State

Step = tuple[State, Sequence[Effect]]
Rule = Callable[[State, Any, Facts], Step]
