"""Joins the modules of the fleet agent into one file, which VMs download."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

# Each module imports only from modules before it.
MODULES = ("errors", "home", "root", "machine", "membership", "agent", "commands")


def build(package: Path) -> bytes:
    """Return one file with the code of all modules in this folder.

    Their imports are at its beginning, and their names are those of the file: no two modules may
    define the same one. Raises ValueError for that, and for imports that cannot be joined.
    """
    sources = [(package / f"{name}.py").read_text() for name in MODULES]
    for name, source in zip(MODULES, sources, strict=True):
        _check_imports(name, ast.parse(source))
    defined = Counter(name for source in sources for name in _names_in(source))
    if repeated := sorted(name for name, times in defined.items() if times > 1):
        raise ValueError(f"the fleet agent defines these names twice: {', '.join(repeated)}")
    parts = [
        "#!/usr/bin/env python3",
        (package / "__init__.py").read_text().rstrip(),
        "from __future__ import annotations",
        _imports_in(sources),
        *map(_code_in, sources),
    ]
    return "\n\n".join(parts).encode() + b"\n"


def _names_in(source: str) -> list[str]:
    """Return the names that a module defines, without those that it imports."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each for target in targets for each in ast.walk(target)]
            found += [each.id for each in names if isinstance(each, ast.Name)]
    return found


def _check_imports(name: str, module: ast.Module) -> None:
    """Raise ValueError for imports whose names would be others, or missing, in the one file."""
    for node in ast.walk(module):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        # The module's name, if the import is relative.
        source = node.module or "." if isinstance(node, ast.ImportFrom) and node.level else ""
        is_top_level = node in module.body
        if source and not is_top_level:
            raise ValueError(f"{name}.py:{node.lineno}: relative imports must be at top level")
        if (source or is_top_level) and any(each.asname for each in node.names):
            raise ValueError(f"{name}.py:{node.lineno}: an import must not rename")
        if source and source not in MODULES[: MODULES.index(name)]:
            raise ValueError(f"{name}.py:{node.lineno}: import names of a module before it")


def _imports_in(sources: list[str]) -> str:
    """Return the statements that import from the standard library, each module and name once."""
    modules: set[str] = set()
    names: dict[str, set[str]] = {}
    for node in (node for source in sources for node in ast.parse(source).body):
        if isinstance(node, ast.Import):
            modules |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
            names.setdefault(str(node.module), set()).update(each.name for each in node.names)
    lines = [f"import {name}" for name in sorted(modules)]
    lines += [f"from {name} import {', '.join(sorted(found))}" for name, found in names.items()]
    return "\n".join(lines)


def _code_in(source: str) -> str:
    """Return the module without its docstring and imports."""
    lines = source.splitlines()
    docstring, *body = ast.parse(source).body
    for node in (docstring, *body):
        if node is docstring or isinstance(node, ast.Import | ast.ImportFrom):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[number - 1] = ""
    return "\n".join(lines).strip()
