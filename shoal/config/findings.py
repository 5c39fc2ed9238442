"""Collect findings about paths of one file; nothing is said about a value that was refused before."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.config.diagnostics import Diagnostic, Level, Path, path_shown
from shoal.config.tree import Tree


class Findings:
    """What is wrong with one file so far, in any order."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.all: list[Diagnostic] = list(tree.findings)

    @property
    def has_errors(self) -> bool:
        """Whether the file cannot be used."""
        return any(found.level is Level.ERROR for found in self.all)

    def error(
        self, path: Path, expected: str, got: str, hint: str = "", *, reads: Iterable[Path] = (), at_key: bool = False
    ) -> None:
        """Note a mistake at `path`, unless it, or one of the paths in `reads` that led to it, was refused before."""
        self._add(Level.ERROR, path, expected, got, hint, reads, at_key)

    def warning(
        self, path: Path, expected: str, got: str, hint: str = "", *, reads: Iterable[Path] = (), at_key: bool = False
    ) -> None:
        """Note something that works, but not as written."""
        self._add(Level.WARNING, path, expected, got, hint, reads, at_key)

    def _add(
        self, level: Level, path: Path, expected: str, got: str, hint: str, reads: Iterable[Path], at_key: bool
    ) -> None:
        if any(self._tree.is_broken(read) for read in (path, *reads)):
            return
        place = self._tree.place(path, of_key=at_key)
        self.all.append(
            Diagnostic(
                level=level,
                file=self._tree.file,
                line=place.line,
                column=place.column,
                path=path_shown(path),
                expected=expected,
                got=got,
                hint=hint,
            )
        )
