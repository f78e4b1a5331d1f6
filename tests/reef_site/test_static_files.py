"""Styles and scripts under names with fingerprints."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.test import override_settings

from reef_site import static_files

TEMPLATES = Path(settings.BASE_DIR) / "templates"
REFERENCE = re.compile(
    r"""\b(?:from|import|import\()\s*["'](\./|\.\./)([^"']+)["']|new URL\("(\./)([^"]+)", import"""
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "static"
    storage = {"BACKEND": "reef_site.static_files.FingerprintStorage"}
    with override_settings(
        STATIC_ROOT=root, STORAGES={**settings.STORAGES, "staticfiles": storage}
    ):
        yield root


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "sources"
    (folder / "reef").mkdir(parents=True)
    finders = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    with override_settings(STATICFILES_DIRS=[folder], STATICFILES_FINDERS=finders):
        yield folder / "reef"


def names_in(root: Path) -> dict[str, str]:
    """Return the manifest: name in the checkout to name with fingerprint."""
    names: dict[str, str] = json.loads((root / "staticfiles.json").read_text())["paths"]
    return names


def test_all_modules_import_fingerprinted_files(root: Path) -> None:
    static_files.collect()

    names = names_in(root)
    modules = [name for name in names if name.startswith("reef/") and name.endswith(".js")]
    found = 0
    for name in modules:
        text = (root / names[name]).read_text()
        for match in REFERENCE.finditer(text):
            path = "".join(part for part in match.groups() if part)
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            assert target in names.values(), f"{name} imports {path}"
            assert (root / target).exists()
            found += 1
    assert found > len(modules)


def test_changed_module_renames_those_that_import_it(root: Path, sources: Path) -> None:
    (sources / "entry.js").write_text('import { a } from "./middle.js";\na();\n')
    (sources / "middle.js").write_text('import { b } from "./leaf.js";\nexport const a = b;\n')
    (sources / "worker.js").write_text('new URL("./leaf.js", import.meta.url);\n')
    (sources / "leaf.js").write_text("export const b = () => 1;\n")
    (sources / "other.js").write_text("export const c = 1;\n")
    static_files.collect()
    before = names_in(root)

    (sources / "leaf.js").write_text("export const b = () => 2;\n")
    static_files.collect()

    after = names_in(root)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"reef/{name}.js" for name in ("entry", "middle", "worker", "leaf")}
    assert (root / after["reef/leaf.js"]).read_text() == "export const b = () => 2;\n"
    assert (root / "reef/leaf.js").read_text() == "export const b = () => 2;\n"


def test_unchanged_files_are_not_collected_again(root: Path, sources: Path) -> None:
    (sources / "leaf.js").write_text("export const b = 1;\n")
    static_files.collect()
    marker = root / "reef" / "not-there-after-collecting"
    marker.touch()

    static_files.collect()
    assert marker.exists()

    (sources / "leaf.js").write_text("export const b = 2;\n")
    static_files.collect()
    assert not marker.exists()


def test_files_of_all_pages_are_collected_and_few_others(root: Path) -> None:
    static_files.collect()

    names = names_in(root)
    templates = [path.read_text() for path in TEMPLATES.rglob("*.html")]
    used = {name for text in templates for name in re.findall(r"{% static '([^']+)' %}", text)}
    assert len(used) > 10
    swagger = "drf_spectacular_sidecar/swagger-ui-dist/"
    used |= {f"{swagger}swagger-ui.css", f"{swagger}favicon-32x32.png"}
    used |= {f"{swagger}swagger-ui-bundle.js", f"{swagger}swagger-ui-standalone-preset.js"}
    used |= {"admin/css/base.css", "admin/js/core.js"}
    assert used <= set(names)
    for name in used:
        assert (root / names[name]).exists()
    assert not [name for name in names if "redoc" in name or name.endswith(".js.map")]


def test_interrupted_collection_is_repeated(root: Path, sources: Path) -> None:
    (sources / "leaf.js").write_text("export const b = 1;\n")
    static_files.collect()
    (root / "collected").unlink()
    (root / "staticfiles.json").unlink()

    static_files.collect()

    assert "reef/leaf.js" in names_in(root)


def test_broken_reference_in_a_package_is_ignored(root: Path, sources: Path) -> None:
    other = sources.parent / "package"
    other.mkdir()
    (other / "x.js").write_text('import("./missing.js");\n//# sourceMappingURL=x.js.map\n')

    static_files.collect()

    assert "package/x.js" in names_in(root)
