"""Reasons name the cause, in whole words."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootloader.boot import render
from bootloader.boot.on_vm import install_agent, reasons
from bootloader.provisioning import steps
from reef_site.common.text import clip_start, clip_words
from reef_site.templatetags.reef import first_words

NPM = """npm error code ETARGET
npm error notarget No matching version found for @earendil-works/pi-coding-agent@9.9.9.
npm error notarget In most cases you or one of your dependencies are requesting
npm error notarget a package version that doesn't exist.
npm error A complete log of this run can be found in: /root/.npm/_logs/x-debug-0.log
"""
CAUSE = "No matching version found for @earendil-works/pi-coding-agent@9.9.9."


def test_cause_is_taken_from_the_output_of_npm() -> None:
    assert reasons.cause(NPM) == CAUSE
    assert reasons.cause("one\n\ntwo\n") == "one / two"
    assert reasons.cause("") == ""
    assert reasons.cause("no room\nboot failed in step reef: no room\n").count("no room") == 1
    output = "starting\nlistening\nboot failed in step health: no answer at port 3000\n"
    assert reasons.cause(output).startswith("boot failed in step health: no answer at port 3000 / ")
    only = "npm error A complete log of this run can be found in: /x-debug-0.log"
    assert reasons.cause(only), "better than nothing"


def test_failing_script_prints_the_cause(tmp_path: Path) -> None:
    """The reason is taken from the last line of the boot script."""
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


@pytest.mark.parametrize("limit", range(20, 60, 7))
def test_text_is_clipped_between_words(limit: int) -> None:
    text = "seven long words stand here in a row and then some more words follow"
    words = set(text.split())
    for cut in (clip_words(text, limit), clip_start(text, limit)):
        assert len(cut) <= limit
        assert set(cut.replace("…", "").split()) <= words
    assert set(first_words(text * 9).replace("…", "").split()) <= {*words, "followseven"}


def test_short_text_is_not_clipped_and_long_words_are_cut() -> None:
    assert clip_words("short", 5) == "short"
    assert clip_start("short", 5) == "short"
    assert len(clip_words("x" * 99, 20)) <= 20
    assert len(clip_start("x" * 99, 20)) <= 20
    assert steps.MAX_LOG_LINE


REFUSED = """npm error code ECONNREFUSED
npm error syscall connect
npm error network request to http://127.0.0.1:9/left-pad failed, reason: connect ECONNREFUSED
npm error network This is a problem related to network connectivity.
npm error network In most cases you are behind a proxy or have bad network settings.
npm error network
npm error network If you are behind a proxy, please make sure that the
npm error network 'proxy' config is set properly.  See: 'npm help config'
"""


def test_cause_names_the_registry_and_no_proxy() -> None:
    found = reasons.cause(REFUSED)
    assert "http://127.0.0.1:9/left-pad failed, reason: connect ECONNREFUSED" in found
    assert "proxy" not in found


def test_full_disk_is_named_before_other_causes() -> None:
    output = "boot.sh: line 245: printf: write error: No space left on device\njson.JSONDecodeError"
    assert reasons.cause(output).startswith("no space left on the disk: boot.sh: line 245")


def test_install_does_not_start_without_disk_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install_agent, "NEEDED_MIB", 1 << 40)
    assert install_agent.main(["--target", str(tmp_path / "agent")]) == 1
    assert f"no space left for the agent: {tmp_path} has" in capsys.readouterr().out
    assert not (tmp_path / "agent").exists()
