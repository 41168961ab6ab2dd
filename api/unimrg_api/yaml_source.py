"""Reads one YAML document into plain values and remembers where each stands in the text.

Scalars keep the text they were written as, so that a message can show `1e-5` and not `1e-05`. What YAML 1.1, which
kubectl reads, and YAML 1.2 read differently is refused: a job must not be another one on a cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from unimrg_api.errors import Problem
from unimrg_api.introspection import Location, format_location

SIZE_LIMIT = 1_048_576
"""Bytes of a file: more than any job needs, and less than an API server takes."""
NODE_LIMIT = 20_000
"""Values in a document, counted after aliases are followed."""
DEPTH_LIMIT = 64

_WORDS = re.compile("y|yes|n|no|on|off", re.IGNORECASE)
"""Texts that YAML 1.1 reads as true and false."""
_DECIMAL_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)|[-+]?[0-9]+([.][0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)")
"""Numbers that every version of YAML reads alike."""
_NUMBER = re.compile(
    r"[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?"
    r"|[-+]?(0[bB][01]+|0[oO][0-7]+|0[xX][0-9a-fA-F]+|[0-9]+(:[0-5]?[0-9])+([.][0-9]*)?)"
)
"""What one version or another reads as a number once underscores are taken out; colons are to the base of sixty."""
_OTHER_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Characters that end a line in YAML 1.1 and not in 1.2."""
_TAGGED = re.compile("(&[^ ]+[ ]+)?!")
_DIRECTIVE = re.compile(r"(\s*(#.*)?\n)*%")

_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Position:
    """Where a value stands: line and column, from 1, of its key (if it has one) and of the value itself."""

    line: int
    column: int
    key_line: int
    key_column: int
    text: str | None
    """A scalar as it was written, without quotes."""


@dataclass
class Document:
    """What a file holds."""

    value: Any = None
    positions: dict[Location, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """What is wrong with the YAML itself."""

    def place(self, location: Location, *, at_key: bool = False) -> tuple[int | None, int | None]:
        """Return line and column of a value, or of its name.

        What is absent stands at the name of what it belongs to; without a file there is no place.
        """
        while location and location not in self.positions:
            location, at_key = location[:-1], True
        found = self.positions.get(location)
        if found is None:
            return None, None
        return (found.key_line, found.key_column) if at_key else (found.line, found.column)


def read_yaml(data: bytes) -> Document:
    """Read the only document in `data`; what is wrong with it is in the result's `problems`."""
    document = Document()
    try:
        text = _text(data)
        yaml = YAML(typ="safe", pure=True)
        try:
            nodes = [node for node in yaml.compose_all(text) if not _is_empty(node)]
        except (YAMLError, RecursionError, ValueError) as error:
            raise _not_yaml(error) from None
        if not nodes:
            raise _Unreadable("the file is empty", "start from examples/quickstart.yaml", 1, 1)
        if len(nodes) > 1:
            message = f"the file holds {len(nodes)} documents, but a job is one"
            mark = nodes[1].start_mark
            raise _Unreadable(message, "put each document into a file of its own", mark.line + 1, mark.column + 1)
        document.value = _Reader(text, yaml, document).value(nodes[0], (), nodes[0])
    except _Unreadable as error:
        document.problems.append(Problem("", "", *error.args))
    return document


class _Unreadable(Exception):  # noqa: N818 - becomes a problem: message, remedy and, if known, line and column
    """The file as a whole cannot be read."""


def _text(data: bytes) -> str:
    """Return a file's text, if every reader sees the same lines in it and reads them by the same rules."""
    if len(data) > SIZE_LIMIT:
        message = f"the file is too large for a job: {len(data)} bytes, at most {SIZE_LIMIT} are read"
        raise _Unreadable(message, "give the job's file, not data")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Unreadable("the file is not UTF-8 text", "save it as UTF-8 text", line, 1) from None
    found = _OTHER_BREAKS.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        message = f"the character U+{ord(found[0]):04X} ends a line for kubectl and for other readers does not"
        raise _Unreadable(message, "take it out, or write it as an escape in double quotes", line, 1)
    if _DIRECTIVE.match(text):
        raise _Unreadable("YAML directives (lines that begin with %) are not read", "leave them out", 1, 1)
    return text


def _ambiguity(node: ScalarNode) -> tuple[str, str] | None:
    """Return why readers differ about an unquoted text, and the remedy; None if all of them read the same."""
    text = node.value
    if node.style is not None:
        return None
    if _WORDS.fullmatch(text):
        return f"{text} is true or false for kubectl, and a text for other readers", "write true or false, or quote it"
    if str(node.tag) == f"{_PREFIX}timestamp":
        return f"{text} is a date for some readers, and a text for others", f'quote it: "{text}"'
    if _DECIMAL_NUMBER.fullmatch(text) or not _NUMBER.fullmatch(text.replace("_", "")):
        return None
    message = f"{text} is not the same number for kubectl and for other readers"
    return message, f'write it in plain decimal digits, or quote it if it is a text: "{text}"'


def _is_empty(node: Node | None) -> bool:
    return node is None or (isinstance(node, ScalarNode) and node.tag == f"{_PREFIX}null" and not node.value)


def _not_yaml(error: Exception) -> _Unreadable:
    if isinstance(error, RecursionError):
        return _Unreadable("the file is nested too deeply for a job", "flatten it")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    detail = (getattr(error, "problem", None) or str(error).splitlines()[0]).strip()
    remedy = "check the indentation, the colons and the quotes around this line"
    if r"\t" in detail or "tab" in detail:
        remedy = "indent with spaces, not with tabs"
    place = (mark.line + 1, mark.column + 1) if isinstance(error, MarkedYAMLError) and mark else ()
    return _Unreadable(f"the file is not YAML: {detail}", remedy, *place)


class _Reader:
    """Turns nodes into values, once for each place at which a node is used."""

    def __init__(self, text: str, yaml: YAML, document: Document) -> None:
        self._text = text
        self._yaml = yaml
        self._document = document
        self._count = 0

    def value(self, node: Node, location: Location, key: Node) -> Any:
        self._count += 1
        if self._count > NODE_LIMIT or len(location) > DEPTH_LIMIT:
            raise _Unreadable("the file holds too many values, or aliases that never end", "write them out")
        text = node.value if isinstance(node, ScalarNode) else None
        start, key_start = node.start_mark, key.start_mark
        self._document.positions[location] = Position(
            start.line + 1, start.column + 1, key_start.line + 1, key_start.column + 1, text
        )
        if _TAGGED.match(self._text, start.index):
            self._problem(location, node, "YAML tags are not read", "leave the tag out")
            return text
        if isinstance(node, MappingNode):
            return self._mapping(node, location)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*location, index), item) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode), f"a node of an unknown kind: {node}"
        return self._scalar(node, location)

    def _mapping(self, node: MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._problem(location, key, "a list or mapping cannot be the name of a field", "write a name")
                continue
            name = key.value
            if key.tag == f"{_PREFIX}merge":
                self._problem((*location, name), key, "merge keys (<<) are not read", "write the fields out")
                continue
            if key.tag != f"{_PREFIX}str" or _ambiguity(key) is not None:
                self._problem((*location, name), key, "the name of a field must be a text", f'quote it: "{name}"')
                continue
            if name in first:
                message = f"the field is given twice (first in line {first[name].start_mark.line + 1})"
                self._problem((*location, name), key, message, "keep one of them")
                continue
            first[name] = key
            result[name] = self.value(value, (*location, name), key)
        return result

    def _scalar(self, node: ScalarNode, location: Location) -> Any:
        ambiguity = _ambiguity(node)
        if ambiguity is not None:
            self._problem(location, node, *ambiguity)
            return node.value
        if str(node.tag).removeprefix(_PREFIX) not in ("null", "bool", "int", "float"):
            return node.value
        try:
            return self._yaml.constructor.construct_object(node)
        except (YAMLError, ValueError):
            self._problem(location, node, "this number cannot be read", "write it in plain decimal digits")
            return node.value

    def _problem(self, location: Location, node: Node, message: str, remedy: str) -> None:
        mark = node.start_mark
        path = format_location(location)
        self._document.problems.append(Problem(path, "", message, remedy, mark.line + 1, mark.column + 1))
