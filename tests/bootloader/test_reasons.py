"""Reasons name the cause, in whole words."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootloader import reasons, render
from bootloader.provisioning import steps
from reef_site.templatetags.reef import first_words

NPM = """npm error code ETARGET
npm error notarget No matching version found for @earendil-works/pi-coding-agent@9.9.9.
npm error notarget In most cases you or one of your dependencies are requesting
npm error notarget a package version that doesn't exist.
npm error A complete log of this run can be found in: /root/.npm/_logs/x-debug-0.log
"""
CAUSE = "No matching version found for @earendil-works/pi-coding-agent@9.9.9."


def test_npm_is_quoted_with_the_cause() -> None:
    assert reasons.cause(NPM) == CAUSE
    assert reasons.cause("one\n\ntwo\n") == "one / two"
    assert reasons.cause("") == ""
    assert reasons.cause("no room\nboot failed in step reef: no room\n").count("no room") == 1
    only = "npm error A complete log of this run can be found in: /x-debug-0.log"
    assert reasons.cause(only), "better than nothing"


def test_a_script_that_fails_names_the_cause(tmp_path: Path) -> None:
    """The line that the boot script ends with is the one that the reason is made of."""
    program = (Path(render.__file__).parent / "scripts" / "run.sh").read_text()
    head = program.split("main() {", 1)[0]
    script = f"""
    report() {{ :; }}; now_ms() {{ echo 0; }}; SKIPPED=77; WORK={tmp_path}
    step_agent() {{ cat <<'END'; return 1; }}
{NPM}END
    {head}
    run_step agent
    """
    script = script.replace("cat <<'END'; return 1; }", f"cat {tmp_path}/said; return 1; }}")
    (tmp_path / "said").write_text(NPM)
    script = script.replace(f"{NPM}END", "")
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 1
    assert "A complete log" not in ran.stderr
    assert ran.stderr.startswith("boot failed in step agent: ")


@pytest.mark.parametrize("most", range(20, 60, 7))
def test_no_word_is_cut(most: int) -> None:
    text = "seven long words stand here in a row and then some more words follow"
    words = set(text.split())
    for cut in (reasons.clipped(text, most), reasons.clipped_end(text, most)):
        assert len(cut) <= most
        assert set(cut.replace("…", "").split()) <= words
    assert set(first_words(text * 9).replace("…", "").split()) <= {*words, "followseven"}


def test_what_fits_is_left_alone_and_endless_words_are_cut() -> None:
    assert reasons.clipped("short", 5) == "short"
    assert reasons.clipped_end("short", 5) == "short"
    assert len(reasons.clipped("x" * 99, 20)) <= 20
    assert len(reasons.clipped_end("x" * 99, 20)) <= 20
    assert steps.MOST_LINE
