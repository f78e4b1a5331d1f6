"""The files of `~/.vers`, read anew each time; problems with them are reported."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from versconfig.keys import ALL, Key, Place

FILE_NAMES = ("keys.json", "config.json", "agent-services.json")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Files:
    """The contents of the files. `problems` are sentences by file name."""

    values: dict[str, Any] = field(repr=False)
    problems: dict[str, str]

    def layers(self, key: Key) -> list[tuple[Place, str | None, str]]:
        """Return for each place of the key the text (if any) and what is wrong with it."""
        return [(place, *self._at(place)) for place in key.places]

    def _at(self, place: Place) -> tuple[str | None, str]:
        value: Any = self.values.get(place.file, {})
        for depth, step in enumerate(place.path):
            if not isinstance(value, dict):
                above = Place(place.file, place.path[:depth])
                return None, f"{above}: must be an object"
            if (value := value.get(step)) is None:
                return None, ""
        if not isinstance(value, str):
            return None, f"{place}: must be a text"
        return value.strip() or None, ""

    def unknown_names(self) -> list[str]:
        """Return names in `keys.json` where reef does not expect any."""
        file = self.values.get("keys.json", {})
        keys = file.get("keys")
        places = (place for key in ALL.values() for place in key.places)
        known = {place.path[-1] for place in places if place.file == "keys.json"}
        below = [name for name in keys if name not in known] if isinstance(keys, dict) else []
        return [*(name for name in file if name != "keys"), *below]


def folder() -> Path:
    """Return the folder of the files."""
    return Path.home() / ".vers"


def read() -> Files:
    """Read all three files. A missing file is not a problem."""
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name in FILE_NAMES:
        try:
            found = _read(folder() / name)
        except ValueError as error:
            problems[name] = f"~/.vers/{name}: {error}"
        else:
            if found is not None:
                values[name] = found
    return Files(values, problems)


def _read(path: Path) -> dict[str, Any] | None:
    """Return the file's object; None if there is no file. Raises ValueError with the problem."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if len(data) > _MAX_BYTES:
        raise ValueError("is too large to be such a file")
    try:
        found = json.loads(data.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        # Only the position, never the contents.
        where = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"is not JSON ({error.msg}: {where})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("must be a JSON object")
    return found
