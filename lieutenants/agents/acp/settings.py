"""Settings of one lieutenant's agent: what it may do, and in which mode it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable

# The first is the default one.
PERMISSIONS = ("ask", "allow", "reject")
FILES = ("none", "read", "write")
TERMINALS = ("no", "yes")
_MAX_MODE = 200
_CHOICES = {"permissions": PERMISSIONS, "files": FILES, "terminals": TERMINALS}


@dataclass(frozen=True)
class AcpSettings:
    """See `Lieutenant.agent_options`; empty texts are defaults."""

    # Answer to what it asks a permission for; `ask` asks a person.
    permissions: str = PERMISSIONS[0]
    # Its access to files through reef, which is limited to its working folder.
    files: str = FILES[0]
    # Whether it may run commands through reef, which begin in its working folder.
    terminals: str = TERMINALS[0]
    # One of the agent's own modes, by id or name; empty leaves the choice to the agent.
    mode: str = ""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> AcpSettings:
        """Return valid settings. Raises BadInput."""
        unknown = given.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise BadInput(f"agent.{min(unknown)}: is not a setting of the agent 'acp'", "agent")
        found = {name: value for name, value in given.items() if value not in (None, "")}
        for name, choices in _CHOICES.items():
            if found.get(name, choices[0]) not in choices:
                raise BadInput(f"agent.{name}: must be one of {', '.join(choices)}", "agent")
        mode = found.get("mode", "")
        if not isinstance(mode, str) or len(mode) > _MAX_MODE or not is_storable(mode):
            raise BadInput(f"agent.mode: must be a text of at most {_MAX_MODE} characters", "agent")
        return cls(**found)

    @property
    def permits_all(self) -> bool:
        """Return whether all permissions that the agent asks for are given."""
        return self.permissions == "allow"

    def excess_of(self, other: AcpSettings) -> str:
        """Return a setting by which another agent may do more by itself; empty if there is none."""
        more = {
            "permissions": other.permits_all and not self.permits_all,
            "files": FILES.index(other.files) > FILES.index(self.files),
            "terminals": TERMINALS.index(other.terminals) > TERMINALS.index(self.terminals),
            # It may be one in which the agent does not ask.
            "mode": other.mode not in ("", self.mode),
        }
        return next((f"agent.{name}" for name, is_more in more.items() if is_more), "")

    def stored(self) -> dict[str, str]:
        """Return the settings that differ from the defaults."""
        return {name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]}


_DEFAULTS = asdict(AcpSettings())
OPTION_NAMES = tuple(_DEFAULTS)
