"""Turn YAML text into plain values, each with its place, and refuse what YAML would silently misread.

The parser's events are walked here and not by PyYAML's loader, for four reasons: every value keeps its line and
column, a key written twice is an error (PyYAML keeps the last), words and numbers that YAML 1.1 turns into
something else (`yes`, `22:30`, `0755`) are errors, and depth and size are limited *before* they cost anything
(libyaml alone takes minutes for 500 KB of `[`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from shoal.config.diagnostics import Diagnostic, Path, nearest, path_shown, printable, shown
from shoal.config.source import Source

DEPTH_MAX = 40
VALUES_MAX = 20_000
"""Counted after aliases are expanded, so that a few lines of anchors cannot become a billion values."""
FINDINGS_MAX = 100

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_SWITCH = re.compile(r"(yes|Yes|YES|on|On|ON)|no|No|NO|off|Off|OFF")
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_OTHER_BASE = re.compile(r"[-+]?0(x[0-9a-fA-F_]+|b[01_]+)")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CLOCK = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_DIGITS_MAX = 40

_WANTED = re.compile(r"(?:did not find )?expected (.+?)(?:, but (?:got|found) .*)?", re.DOTALL)
"""What the parser missed; libyaml and PyYAML's own parser word it differently."""
_CONTEXTS = {
    "while parsing a block mapping": "mapping",
    "while parsing a block collection": "list",
    "while parsing a flow mapping": "mapping `{`",
    "while parsing a flow sequence": "list `[`",
    "while parsing a flow node": "list or mapping",
    "while parsing a block node": "value",
    "while scanning a simple key": "key",
}
"""The parser's own words for what it was in the middle of."""
_WORDS = {
    "key": "a key, indented like the others",
    "`-` indicator": "`-`, indented like the others",
    "node content": "a value",
    "<document start>": "the end of the document",
}
"""The parser's own words for what it wanted."""


class Place(msgspec.Struct, frozen=True):
    """A line and a column, both from 1."""

    line: int
    column: int


class Tree(msgspec.Struct, kw_only=True):
    """A document's values. `keys` and `values` say where each path's key and value stand.

    `broken` holds the paths whose value was refused; `data` has None there, and nobody should judge it again.
    """

    file: str
    data: Any = None
    keys: dict[Path, Place] = {}
    values: dict[Path, Place] = {}
    broken: set[Path] = set()
    findings: list[Diagnostic] = []

    def place(self, path: Path, *, of_key: bool = False) -> Place:
        """Return where `path` stands; for what is not in the file, where its nearest parent does."""
        for end in range(len(path), -1, -1):
            if (of_key or end < len(path)) and path[:end] in self.keys:
                return self.keys[path[:end]]
            if path[:end] in self.values:
                return self.values[path[:end]]
        return Place(1, 1)

    def is_broken(self, path: Path) -> bool:
        """Say whether the value at `path`, or something in it or around it, was refused already."""
        return any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in self.broken)


class _Node(msgspec.Struct):
    """A parsed value before it has a path: `pairs` of a mapping, `items` of a list, else `text`."""

    place: Place
    text: str = ""
    is_plain: bool = False
    tag: str = ""
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None


class _Stop(Exception):
    """The document cannot be read any further."""


def parse(source: Source) -> Tree:
    """Return the values of one document. What is wrong with it is in `findings`; never raises for any text."""
    tree = Tree(file=source.file)
    try:
        root = _composed(source, tree)
        if root is None:
            raise _stop(tree, Place(1, 1), "a mapping of keys", "an empty file", "`configs/local.yaml` is an example")
        tree.data = _Reader(tree).value(root, (), ())
        if root.pairs is None and not tree.findings:
            raise _stop(
                tree,
                root.place,
                "a mapping of keys",
                shown(tree.data),
                "a cluster file starts with `cluster_name: NAME`",
            )
    except _Stop:
        pass
    return tree


def _stop(tree: Tree, place: Place, expected: str, got: str, hint: str = "") -> _Stop:
    tree.findings.append(
        Diagnostic(
            file=tree.file,
            line=place.line,
            column=place.column,
            path="document",
            expected=expected,
            got=got,
            hint=hint,
        )
    )
    return _Stop()


def _composed(source: Source, tree: Tree) -> _Node | None:
    """Return the only document's root, None if there is none."""
    anchors: dict[str, _Node] = {}
    roots: list[_Node] = []
    open_nodes: list[_Node] = []
    waiting_keys: list[_Node | None] = []
    count = 0

    for event in _events(source, tree):
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case yaml.DocumentStartEvent() if roots:
                raise _stop(tree, place, "one document", "a second one", "keep each cluster in a file of its own")
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                open_nodes.pop()
                waiting_keys.pop()
                continue
            case yaml.ScalarEvent():
                node = _Node(
                    place, text=event.value, is_plain=event.implicit[0] and not event.style, tag=event.tag or ""
                )
            case yaml.SequenceStartEvent():
                node = _Node(place, items=[], tag=event.tag or "")
            case yaml.MappingStartEvent():
                node = _Node(place, pairs=[], tag=event.tag or "")
            case yaml.AliasEvent():
                if event.anchor not in anchors:
                    near = nearest(str(event.anchor), anchors)
                    raise _stop(
                        tree,
                        place,
                        "an anchor that is defined above",
                        f"`*{printable(str(event.anchor))}`",
                        f"did you mean `*{near}`?" if near else "a text that starts with `*` needs quotes",
                    )
                node = anchors[event.anchor]
            case _:
                continue
        count += 1
        if count > VALUES_MAX:
            raise _stop(tree, place, f"at most {VALUES_MAX} values", "more")
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent) and event.anchor:
            anchors[event.anchor] = node

        if not open_nodes:
            roots.append(node)
        elif (parent := open_nodes[-1]).items is not None:
            parent.items.append(node)
        elif (key := waiting_keys[-1]) is None:
            waiting_keys[-1] = node
        else:
            assert parent.pairs is not None
            parent.pairs.append((key, node))
            waiting_keys[-1] = None
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(node)
            waiting_keys.append(None)
            if len(open_nodes) > DEPTH_MAX:
                raise _stop(tree, place, f"at most {DEPTH_MAX} levels of nesting", "more")
    return roots[0] if roots else None


def _events(source: Source, tree: Tree) -> Iterator[Any]:
    try:
        yield from yaml.parse(source.text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        raise _syntax(tree, source.text, place, error) from None
    except yaml.YAMLError as error:
        raise _stop(tree, Place(1, 1), "YAML", printable(str(error))) from None


def _syntax(tree: Tree, text: str, place: Place, error: yaml.MarkedYAMLError) -> _Stop:
    """Return the parser's complaint in words that say what to write."""
    lines = text.split("\n")
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    problem = error.problem or "something else"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        column = line.index("\t") + 1
        return _stop(tree, Place(place.line, column), "spaces for indentation", "a tab", "replace each tab by spaces")
    if "mapping values are not allowed" in problem:
        return _stop(
            tree,
            place,
            "one `key: value` per line",
            "a second `:`",
            'a text with `: ` in it needs quotes, as in "gpu: 1 x L4"',
        )
    if "alphabetic or numeric" in problem and place.column > 1:
        # The name after `*`, `&` or `!` is what the parser misses; people miss the quotes.
        place = Place(place.line, place.column - 1)
    letter = line[place.column - 1 : place.column]
    if letter in ("@", "`", "%", "*", "&", "!") and ("cannot start" in problem or "alphabetic" in problem):
        return _stop(tree, place, "a key or a value", _raw(letter), f"a text that starts with `{letter}` needs quotes")
    if "unexpected end of stream" in problem and error.context_mark:
        begun = Place(error.context_mark.line + 1, error.context_mark.column + 1)
        return _stop(tree, begun, "a closing quote", "the end of the file")
    got = _raw(line.strip()) if line.strip() else "the end of the file"
    hint = ""
    if error.context_mark and (what := _CONTEXTS.get(error.context or "")):
        hint = f"in the {what} that starts in line {error.context_mark.line + 1}"
    found = _WANTED.fullmatch(problem)
    if not found:
        return _stop(tree, place, "YAML", f"{problem} in {got}", hint)
    wanted = found[1].replace("'", "`")
    return _stop(tree, place, _WORDS.get(wanted, wanted), got, hint)


def _raw(text: str) -> str:
    """Return what stands in the file, as it stands there."""
    return f"`{printable(text)}`"


class _Reader:
    """Gives every value its path and its type. Aliases are expanded here, and counted."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._count = 0
        self._said: set[tuple[Place, str]] = set()

    def value(self, node: _Node, path: Path, around: tuple[int, ...]) -> Any:
        """Return the plain value of `node`. `around` are the ids of the nodes it stands in."""
        self._count += 1
        if self._count > VALUES_MAX:
            raise _stop(self._tree, node.place, f"at most {VALUES_MAX} values", "more, once its aliases are expanded")
        if id(node) in around:
            raise _stop(self._tree, node.place, "values that end", "an alias inside its own anchor")
        if len(around) > DEPTH_MAX:
            raise _stop(self._tree, node.place, f"at most {DEPTH_MAX} levels of nesting", "more")
        self._tree.values[path] = node.place
        inside = (*around, id(node))
        if node.pairs is not None:
            self._check_tag(node, path, ("map",))
            return self._mapping(node, path, inside)
        if node.items is not None:
            self._check_tag(node, path, ("seq",))
            return [self.value(item, (*path, place), inside) for place, item in enumerate(node.items)]
        return self._scalar(node, path)

    def _mapping(self, node: _Node, path: Path, inside: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        own: dict[str, int] = {}
        for key, value in node.pairs or ():
            if key.is_plain and key.text == "<<":
                continue
            name = self._key(key, path)
            if name is None:
                continue
            if name in own:
                self._say(
                    key.place,
                    (*path, name),
                    "each key once",
                    f"`{printable(name)}` again",
                    f"it stands in line {own[name]} already",
                )
                continue
            own[name] = key.place.line
            self._tree.keys[*path, name] = key.place
            result[name] = self.value(value, (*path, name), inside)
        for key, value in node.pairs or ():
            if not (key.is_plain and key.text == "<<"):
                continue
            for source in value.items if value.items is not None else [value]:
                self._merge(source, path, inside, result)
        return result

    def _merge(self, source: _Node, path: Path, inside: tuple[int, ...], result: dict[str, Any]) -> None:
        """Add what `<<` brings; what the mapping says itself wins, and so does the first of several."""
        if source.pairs is None:
            self._refuse(source.place, (*path, "<<"), "an alias of a mapping", "something else")
            return
        if id(source) in inside:
            raise _stop(self._tree, source.place, "values that end", "an alias inside its own anchor")
        places = dict(self._tree.values), dict(self._tree.keys)
        brought = self._mapping(source, path, (*inside, id(source)))
        for name, value in brought.items():
            result.setdefault(name, value)
        # Places of what the mapping says itself stay; only the new ones come from the anchor.
        self._tree.values = {**self._tree.values, **places[0]}
        self._tree.keys = {**self._tree.keys, **places[1]}

    def _key(self, key: _Node, path: Path) -> str | None:
        here = (*path, printable(key.text) or "?")
        if key.pairs is not None or key.items is not None:
            hint = "a text that starts with `{` or `[` needs quotes"
            self._say(key.place, path, "a name as key", "a mapping or list", hint)
            return None
        before = len(self._tree.findings)
        name = self._scalar(key, here)
        if len(self._tree.findings) > before:
            return None
        if not isinstance(name, str):
            hint = f'write "{printable(key.text)}" in quotes' if key.text else "a line starts with `:`, or with `?`"
            self._say(key.place, path, "a name (text) as key", shown(name), hint)
            return None
        return name

    def _scalar(self, node: _Node, path: Path) -> Any:
        text = node.text
        if node.tag and node.tag != "!":
            if not self._check_tag(node, path, ("str", "int", "float", "bool", "null")):
                return None
            if node.tag == f"{_TAG}str":
                return text
        elif not node.is_plain:
            return text
        if _NULL.fullmatch(text):
            return None
        if found := _BOOL.fullmatch(text):
            return found[1] is not None
        if found := _SWITCH.fullmatch(text):
            word = "true" if found[1] else "false"
            hint = f'write `{word}`, or "{text}" in quotes if it is a text'
            return self._refuse(node.place, path, "`true`, `false` or a text in quotes", _raw(text), hint)
        if len(text) > _DIGITS_MAX and (_INT.fullmatch(text) or _OTHER_BASE.fullmatch(text) or _FLOAT.fullmatch(text)):
            return self._refuse(node.place, path, f"a number of at most {_DIGITS_MAX} digits", _raw(text))
        if _INT.fullmatch(text):
            return int(text.replace("_", ""))
        if _OTHER_BASE.fullmatch(text):
            return int(text.replace("_", ""), 0)
        if _OCTAL.fullmatch(text):
            octal = int(text.replace("_", ""), 8)
            hint = f'YAML reads it as octal {octal}; write "{text}" in quotes, or the number without leading zeros'
            return self._refuse(node.place, path, "a number or a text in quotes", _raw(text), hint)
        if _FLOAT.fullmatch(text):
            number = float(text.replace("_", ""))
            if abs(number) == float("inf"):
                return self._refuse(node.place, path, "a finite number", _raw(text))
            return number
        if _NOT_FINITE.fullmatch(text):
            return self._refuse(node.place, path, "a finite number", _raw(text), "leave the key out for no limit")
        if _CLOCK.fullmatch(text):
            hint = f'YAML reads it in base 60; write "{printable(text)}" in quotes, or a duration such as `22m30s`'
            return self._refuse(node.place, path, "a number or a text in quotes", _raw(text), hint)
        return text

    def _check_tag(self, node: _Node, path: Path, allowed: tuple[str, ...]) -> bool:
        if not node.tag or node.tag == "!" or node.tag.removeprefix(_TAG) in allowed:
            return True
        tag = node.tag.replace(_TAG, "!!")
        self._refuse(node.place, path, "plain values", f"the tag {_raw(tag)}", "leave the tag out; quotes make a text")
        return False

    def _refuse(self, place: Place, path: Path, expected: str, got: str, hint: str = "") -> None:
        self._tree.broken.add(path)
        self._say(place, path, expected, got, hint)

    def _say(self, place: Place, path: Path, expected: str, got: str, hint: str = "") -> None:
        if (place, expected) in self._said:
            return
        self._said.add((place, expected))
        self._tree.findings.append(
            Diagnostic(
                file=self._tree.file,
                line=place.line,
                column=place.column,
                path=path_shown(path),
                expected=expected,
                got=got,
                hint=hint,
            )
        )
        if len(self._tree.findings) >= FINDINGS_MAX:
            raise _stop(self._tree, place, f"at most {FINDINGS_MAX} mistakes", "more")
