"""Two hundred texts that do harm, or are changed, if they are not quoted correctly."""

from __future__ import annotations

import itertools

# The file that each embedded command would create if it were executed.
CANARY = "pwned"

_COMMANDS = (f"touch {CANARY}", f"echo x >{CANARY}", f": >>{CANARY}")
_WRAPPED = (
    *("$({})", "`{}`", "${{x:-$({})}}", "; {} ;", "&& {} &&", "|| {} ||", "| {} |", "& {} &"),
    *("'; {} ;'", '"; {} ;"', "'$({})'", '"$({})"', "\\$({})", "\\\\$({})", "\\'; {} ;\\'"),
    *("\n{}\n", "\r\n{}\r\n", "x\n{}", "'\n{}\n'", ")\n{}\n(", "}}\n{}\n{{", "<({})", ">({})"),
    *("$'\\x27; {} ;\\x27'", '$"{}"', "x=1 {}", "if {}; then", "a[$({})]", "$(({}))"),
)
_HEREDOC_ENDS = (
    "PYTHON",
    "PROGRAM",
    "UNIT",
    "EOF",
    "_EOF_",
    "END",
    "'PYTHON'",
    "<<EOF",
    "<<'PROGRAM'",
)
_SIGNS = (
    *("'", '"', "`", "\\", "$", "!", "!!", "!1", "*", "?", "[a-z]", "~", "~root", "#", "# x", "-"),
    *("--", "-e", "-n x", "-rf /", "--help", "=", "a=b", "%", "%s%n", "%(x)s", "{}", "{a,b}"),
    *("{{ x }}", "{% x %}", "${IFS}", "$@", "$*", "$0", "$$", "$!", "${HOME}", "$HOME", "(", ")"),
    *(
        "(x)",
        "<",
        ">",
        "|",
        ";",
        "&",
        " ",
        "  ",
        " x ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "x\n",
        "\nx",
        "x\n\n",
    ),
    *("'\n'", "\\\n", "x\\", "''", '""', "'\"'\"'", "\x01", "\x02", "\x07", "\x08", "\x0b", "\x0c"),
    *(
        "\x1b[31mred\x1b[0m",
        "\x7f",
        "\x80",
        "\x85",
        "\x9b",
        "\xa0",
        "\xad",
        "é",
        "ß",
        "日本",
        "🐚🔥",
    ),
    *("\u200b", "\u202e", "\u2028", "\u2029", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", "е̄", "İ"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "%2F",
        "%00",
        "\\0",
        "\\x00",
        "\\u0000",
        "null",
        "~",
    ),
    *(
        "yes",
        "no",
        "true",
        "1",
        "1e3",
        "0x10",
        "0o7",
        "1_000",
        "2026-11-22",
        "12:30:45",
        ".inf",
        "<<",
    ),
    *(
        "- x",
        "x: y",
        "? x",
        "&a",
        "*a",
        "!tag",
        "!!python/object:os.system",
        "| x",
        "> x",
        "@x",
        "%YAML",
    ),
    *("---", "--- x", "...", "#cloud-config", "# shellcheck disable=all", "=cmd|'/C x'!A0"),
)
_LONG = ("x" * 10_240, "'\"$(" * 2_560, "é" * 5_120, "\n" * 10_240, "a b " * 2_560)

VALUES: list[str] = list(
    dict.fromkeys(
        [
            *_SIGNS,
            *(f"\n{end}\ntouch {CANARY}\n" for end in _HEREDOC_ENDS),
            *_LONG,
            *(form.format(each) for each, form in itertools.product(_COMMANDS, _WRAPPED)),
        ]
    )
)[:200]
