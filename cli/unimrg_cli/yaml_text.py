"""Writes plain values as YAML that every version of it, and so every reader, takes for the same."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._-]*")
_NOT_TEXTS = frozenset({"y", "yes", "n", "no", "true", "false", "on", "off", "null"})
"""Words that readers of YAML 1.1, as kubectl is, take for something else than texts."""


class _Representer(SafeRepresenter):
    """Writes texts so that every version of YAML reads the same, and no value as a reference to another."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> ScalarNode:
        plain = _PLAIN.fullmatch(data) and data.lower() not in _NOT_TEXTS
        quotes = "'" if '"' in data and data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else quotes)


_Representer.add_representer(str, _Representer.text)


def to_yaml(documents: list[dict[str, Any]]) -> str:
    """Return plain values as YAML documents, the same text every time."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1 << 20
    text = StringIO()
    for document in documents:
        text.write("---\n")
        yaml.dump(document, text)
    return text.getvalue()


def scalar(value: Any) -> str:
    """Return a text, number or truth as it stands in YAML, quoted where it must be."""
    return to_yaml([{"x": value}]).removeprefix("---\nx: ").rstrip("\n")
