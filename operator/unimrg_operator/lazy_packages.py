"""Keeps the official clients from importing their 800 modules at once: each is imported when a name of it is used.

The packages below consist of `from … import …` lines, one for every class of the API, of which we use 30. Executed as
they are, they cost 45 MiB and a second. Here the lines are read instead, and a name is looked up in the module that its
line names (PEP 562); for any other name the package is executed as it is. So what they offer stays the same
(docs/decisions/0036-the-official-client-is-imported-by-name.md).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

PACKAGES = frozenset(
    {
        "kubernetes",
        "kubernetes.client",
        "kubernetes.client.api",
        "kubernetes.client.models",
        "kubernetes.config",
        "kubeflow.training",
        "kubeflow.training.models",
    }
)


class _LazyLoader(Loader):
    """Loads a package as the names that its `__init__.py` would import."""

    def __init__(self, file: str) -> None:
        self._file = file

    def create_module(self, spec: ModuleSpec) -> None:
        """Have an ordinary module made."""

    def exec_module(self, module: ModuleType) -> None:
        """Read which names the package has and where they come from."""
        tree = ast.parse(Path(self._file).read_text())
        code = compile(tree, self._file, "exec", dont_inherit=True)
        module.__getattr__ = _finder_of(module, _origins(tree, module.__name__), code)  # type: ignore[method-assign]


def _origins(tree: ast.Module, package: str) -> dict[str, tuple[str, str]]:
    """Return module and name from which each name is imported; not those that are modules of the package itself."""
    lines = [line for line in tree.body if isinstance(line, ast.ImportFrom) and line.module not in (None, "__future__")]
    return {
        alias.asname or alias.name: (resolve_name(f"{'.' * line.level}{line.module}", package), alias.name)
        for line in lines
        for alias in line.names
    }


def _finder_of(module: ModuleType, origins: dict[str, tuple[str, str]], code: CodeType) -> Any:
    def find(name: str) -> Any:
        if name in origins:
            setattr(module, name, _member(*origins[name]))
        elif find_spec(f"{module.__name__}.{name}") is not None:
            return import_module(f"{module.__name__}.{name}")
        elif name in ("__all__", *code.co_names) or ("*" in origins and not name.startswith("__")):
            # Another line defines it, or may; or somebody asks for everything.
            del module.__getattr__
            exec(code, module.__dict__)
        if name in module.__dict__:
            return module.__dict__[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    return find


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None and spec.submodule_search_locations is not None:
            spec.loader = _LazyLoader(spec.origin)
        return spec


def install() -> None:
    """Load these packages lazily from now on; one that was imported before stays as it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _member(module: str, name: str) -> Any:
    """Return what `from module import name` gives."""
    owner = import_module(module)
    return getattr(owner, name) if hasattr(owner, name) else import_module(f"{module}.{name}")
