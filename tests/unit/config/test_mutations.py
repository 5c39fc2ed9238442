"""Ten thousand damaged cluster files: each is good or gives findings with places; never a traceback, never a hang."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from shoal.config.diagnostics import ConfigErrors
from shoal.config.load import loaded
from shoal.config.source import FILE_BYTES_MAX, decode

ROOT = Path(__file__).parents[3]
GOOD = [path.read_text() for path in sorted((ROOT / "configs").glob("*.yaml"))]
GOOD += [path.read_text() for path in sorted((ROOT / "tests/bad_configs").glob("warned_*.yaml"))]

MUTATIONS = 10_000
ONE_FILE_S_MAX = 2.0
"""Far above what one takes (some milliseconds), so that a busy machine fails nothing and a hang does."""

LINE = re.compile(r"hint: .+|\.\.\. and \d+ more|f\.yaml(:\d+:\d+)?: (warning: )?(\S.*: )?expected .+, got .+")

WORDS = [
    "~", "null", "true", "yes", "off", "-1", "0", "1e309", "9" * 50, ".inf", ".nan", "22:30", "0755", "0x1F", "1_000",
    "''", '""', "[]", "{}", "[[]]", "{a: {b: c}}", "&a", "*a", "<<: *a", "!!str", "!!python/none", "!x", "|", ">-",
    "---", "...", "%YAML 1.1", "#", "- ", "? ", ": ", ",", "{", "}", "[", "]", '"', "'", "\\", "\t", "\r", "\n",
    "\u0085", "\u2028", "\ufeff", "\x00", "\x1b", "é", "日本", "🐟", "cpu >= 4", "gpu: 1 x L4", "16 GiB", "5m",
    "local", "sim", "ssh", "aws", "gcp", "azure", "kubernetes", "spot", "on-demand", "type", "provider", "resources",
    "available_node_types", "head_node_type", "min_workers", "max_workers", "head_node", "worker_nodes",
    "machine_types",
]  # fmt: skip


def mutated(chance: random.Random) -> bytes:
    """Return a good file with one to four changes to its text, lines or bytes."""
    text = chance.choice(GOOD)
    for _ in range(chance.randint(1, 4)):
        text = chance.choice(CHANGES)(text, chance)
    raw = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        place = chance.randrange(len(raw) + 1)
        raw = raw[:place] + chance.randbytes(chance.randint(1, 4)) + raw[place:]
    return raw


def _letter(text: str, chance: random.Random) -> str:
    place = chance.randrange(len(text) + 1)
    end = min(len(text), place + chance.randint(0, 3))
    return text[:place] + chance.choice(WORDS)[: chance.randint(0, 3)] + text[end:]


def _value(text: str, chance: random.Random) -> str:
    places = [found.span(1) for found in re.finditer(r": ([^\s#{\[][^#\n,}\]]*)", text)] or [(0, 0)]
    start, end = chance.choice(places)
    return text[:start] + chance.choice(WORDS) + text[end:]


def _key(text: str, chance: random.Random) -> str:
    places = [found.span(1) for found in re.finditer(r"([A-Za-z_]+):", text)] or [(0, 0)]
    start, end = chance.choice(places)
    word = text[start:end]
    change = chance.choice([word[:-1], word + "s", word.upper(), chance.choice(WORDS), word[::-1]])
    return text[:start] + change + text[end:]


def _line(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(5):
        case 0:
            del lines[first]
        case 1:
            lines.insert(second, lines[first])
        case 2:
            lines[first], lines[second] = lines[second], lines[first]
        case 3:
            lines[first] = chance.choice(["  ", "\t", " ", "    "]) + lines[first]
        case _:
            lines[first] = lines[first].lstrip()
    return "\n".join(lines)


def _cut(text: str, chance: random.Random) -> str:
    start = chance.randrange(len(text) + 1)
    return text[:start] + text[chance.randint(start, len(text)) :]


def _graft(text: str, chance: random.Random) -> str:
    other = chance.choice(GOOD)
    start = chance.randrange(len(other))
    place = chance.randrange(len(text) + 1)
    return text[:place] + other[start : start + chance.randint(1, 400)] + text[place:]


CHANGES = [_letter, _value, _value, _key, _key, _line, _line, _cut, _graft]


def outcome(raw: bytes) -> str:
    """Return "" for a file that can be used, else what is printed."""
    try:
        loaded(decode(raw, "f.yaml"), Path("f.yaml"))
    except ConfigErrors as errors:
        return str(errors)
    return ""


@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_mutations_give_findings_and_no_traceback(part: int) -> None:
    good = bad = 0
    for seed in range(part * MUTATIONS // 4, (part + 1) * MUTATIONS // 4):
        raw = mutated(random.Random(seed))
        began_s = time.perf_counter()
        try:
            text = outcome(raw)
        except Exception as error:
            raise AssertionError(f"seed {seed} raised {error!r}") from error
        assert time.perf_counter() - began_s < ONE_FILE_S_MAX, f"seed {seed} took too long"
        for line in text.splitlines():
            assert LINE.fullmatch(line), f"seed {seed}: {line!r}"
        good, bad = good + (not text), bad + bool(text)

    # Both kinds must occur, or the mutations are too weak or too strong to say anything.
    assert good > 100
    assert bad > 1000


GARBAGE = {
    "random bytes": lambda size: random.Random(1).randbytes(size),
    "random letters": lambda size: bytes(random.Random(2).choices(range(32, 127), k=size)),
    "zeros": lambda size: bytes(size),
    "brackets": lambda size: b"[" * size,
    "braces": lambda size: b"{" * size,
    "keys in keys": lambda size: (b"{a: " * size)[:size],
    "question marks": lambda size: (b"? " * size)[:size],
    "dashes": lambda size: (b"- " * size)[:size],
    "lines of dashes": lambda size: (b"- a\n" * size)[:size],
    "one word": lambda size: b"a" * size,
    "one quote": lambda size: b'"' + b"a" * (size - 1),
    "anchors": lambda size: b"".join(b"- &a%d 1\n" % number for number in range(size // 12))[:size],
    "aliases": lambda size: b"x: &a 1\ny:\n" + (b"- *a\n" * size)[: size - 20],
    "new lines": lambda size: b"\n" * size,
    "spaces": lambda size: b" " * size,
    "tabs": lambda size: b"\t" * size,
    "unknown keys": lambda size: b"".join(b"k%d: 1\n" % number for number in range(size // 12))[:size],
    "unknown types": lambda size: (
        b"available_node_types:\n" + b"".join(b"  t%d: {x: 1}\n" % number for number in range(size // 20))[: size - 30]
    ),
    "one long number": lambda size: b"max_workers: " + b"9" * (size - 20),
    "documents": lambda size: (b"---\n" * size)[:size],
    "tags": lambda size: b"!" * size,
    "digits and dots": lambda size: b"a: " + (b"1." * size)[: size - 3],
    "colons of a clock": lambda size: b"a: 1" + (b":1" * size)[: size - 4],
}


@pytest.mark.parametrize("size", [FILE_BYTES_MAX, 1_000_000])
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_megabyte_of_garbage_is_refused_in_time(kind: str, size: int) -> None:
    raw = GARBAGE[kind](size)

    began_s = time.perf_counter()
    text = outcome(raw)

    assert LINE.fullmatch(text.splitlines()[0]), text[:200]
    assert len(text) < 100_000
    assert time.perf_counter() - began_s < 10


def test_a_good_file_stays_good_under_every_comment_and_blank_line() -> None:
    for text in GOOD:
        assert (
            outcome(
                "\n\n".join(
                    f"{line}  # note" if line and line[-1] != ">" else line for line in text.split("\n")
                ).encode()
            )
            == ""
        )
