"""Read a CSV file that a user wrote: rows with their lines, or all that is wrong with it at once.

Whatever the path points at ends in rows or in one `ConfigErrors`: sizes, rows, columns and findings have limits.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from shoal.config.diagnostics import ConfigErrors, Diagnostic, nearest, printable
from shoal.foundation.amounts import amount_of, bytes_shown

FILE_BYTES_MAX = 64 * 2**20
ROWS_MAX = 1_000_000
COLUMNS_MAX = 100
FINDINGS_MAX = 20
"""More than this many findings are counted, not listed."""


class Row:
    """One line of the file. The readers note what is wrong and go on, so that all findings come at once."""

    __slots__ = ("_cells", "_table", "line")

    def __init__(self, table: Table, line: int, cells: dict[str, str]) -> None:
        self._table, self.line, self._cells = table, line, cells

    def text(self, column: str) -> str:
        """Return the cell without blanks around it, "" if it is empty or there is no such column."""
        return self._cells.get(column, "")

    def number(self, column: str, default: float | None = 0.0, *, least: float = 0.0, most: float = 1e9) -> float:
        """Return the cell as a number in the range; an empty one is `default` (None: it may not be empty)."""
        text = self.text(column)
        if not text:
            if default is None:
                self.wrong(column, "a number", "nothing")
                return least
            return default
        try:
            value = float(text)
        except ValueError:
            self.wrong(column, "a number", cell(text))
            return least
        if not least <= value <= most:
            self.wrong(column, f"a number from {least:g} to {most:g}", cell(text))
            return least
        return value

    def whole(self, column: str, default: int, *, least: int = 0, most: int = 10**7) -> int:
        """Return the cell as a whole number in the range; an empty one is `default`."""
        text = self.text(column)
        if not text:
            return default
        digits = text.removesuffix(".0")
        # Never int() on what is long or odd: it accepts underscores and is quadratic on thousands of digits.
        if not (digits.isascii() and digits.lstrip("-").isdigit() and len(digits) <= 18):
            self.wrong(column, f"a whole number from {least} to {most}", cell(text))
            return least
        value = int(digits)
        if not least <= value <= most:
            self.wrong(column, f"a whole number from {least} to {most}", cell(text))
            return least
        return value

    def amount(self, column: str, unit: int = 1, *, most: float = 1e9) -> int:
        """Return the cell as an exact amount (1/10000) of `unit`; bytes are rounded up to whole ones."""
        value = self.number(column, most=most)
        if unit > 1:
            return -int(-value * unit // 1) * 10_000
        try:
            return amount_of(value, column)
        except ValueError:
            self.wrong(column, "a multiple of 0.0001", cell(self.text(column)))
            return 0

    def one_of(self, column: str, words: Sequence[str], default: str) -> str:
        """Return the cell as one of the words; an empty one is `default`."""
        text = self.text(column)
        if not text or text in words:
            return text or default
        near = nearest(text, words)
        self.wrong(column, "one of " + ", ".join(words), cell(text), f"did you mean `{near}`?" if near else "")
        return default

    def wrong(self, column: str, expected: str, got: str, hint: str = "") -> None:
        """Note that something of this row cannot be used."""
        self._table.wrong(self.line, column, expected, got, hint)


class Table:
    """A CSV file's rows and what was found wrong with them. Call `close` when all rows have been looked at."""

    def __init__(self, path: Path, columns: Sequence[str], needed: Sequence[str] = ()) -> None:
        """Open `path`, which may have the `columns` and must have the `needed` ones.

        Raises:
            ConfigErrors: there is no such file, it is no text, or its first line has no usable columns.
        """
        self._file = str(path)
        self._findings: list[Diagnostic] = []
        self._unlisted = 0
        self._reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
        self._columns = self._header(columns, needed)

    def rows(self) -> Iterator[Row]:
        """Yield the rows that are not empty, in the file's order."""
        count = 0
        width = len(self._columns)
        while True:
            line = self._reader.line_num + 1
            try:
                cells = next(self._reader)
            except StopIteration:
                break
            except csv.Error as error:
                # After a broken quote nothing below can be told apart; the findings so far stand.
                self.wrong(line, "", "a CSV row", str(error))
                break
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > width and any(cell.strip() for cell in cells[width:]):
                self.wrong(line, "", f"{width} columns", str(len(cells)))
                continue
            if count >= ROWS_MAX:
                self.wrong(line, "", f"at most {ROWS_MAX} rows", "more")
                break
            count += 1
            named = zip(self._columns, cells, strict=False)
            yield Row(self, line, {name: cell.strip() for name, cell in named if cell})
        if not count and not self._findings:
            self.wrong(1, "", "at least one row below the columns' names", "none")

    def wrong(self, line: int, column: str, expected: str, got: str, hint: str = "") -> None:
        """Note a finding."""
        if len(self._findings) >= FINDINGS_MAX:
            self._unlisted += 1
            return
        self._findings.append(
            Diagnostic(file=self._file, line=line, column=1, path=column, expected=expected, got=got, hint=hint)
        )

    def close(self) -> None:
        """Raise what was found.

        Raises:
            ConfigErrors: anything was found wrong; at most `FINDINGS_MAX` are listed.
        """
        if self._unlisted:
            last = self._findings[-1]
            more = f"{self._unlisted} more findings are not listed"
            self._findings[-1] = msgspec.structs.replace(last, hint=f"{last.hint}; {more}" if last.hint else more)
        if self._findings:
            raise ConfigErrors(self._findings)

    def _header(self, columns: Sequence[str], needed: Sequence[str]) -> list[str]:
        try:
            cells = next(self._reader, [])
        except csv.Error as error:
            raise _refused(self._file, "columns' names in the first line", str(error), line=1) from None
        names = [cell.strip().lower() for cell in cells]
        while names and not names[-1]:
            names.pop()
        if not names:
            raise _refused(self._file, f"columns `{','.join(columns)}`", "an empty first line", line=1)
        if len(names) > COLUMNS_MAX:
            raise _refused(self._file, f"at most {COLUMNS_MAX} columns", str(len(names)), line=1)
        for name in names:
            if name not in columns:
                near = nearest(name, columns) if name else ""
                hint = f"did you mean `{near}`?" if near else ""
                self.wrong(1, "", "columns " + ", ".join(f"`{known}`" for known in columns), cell(name), hint)
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.wrong(1, "", f"column `{name}` once", f"it {names.count(name)} times")
        for name in needed:
            if name not in names:
                self.wrong(1, "", f"a column `{name}`", "none")
        self.close()
        return names


def cell(text: str) -> str:
    """Return a cell for a message."""
    return f"`{printable(text)}`" if text else "nothing"


def _text(path: Path) -> str:
    name = str(path)
    try:
        # Opened without blocking, so that a named pipe is refused instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _refused(name, "a CSV file", "no such file") from None
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise _refused(name, "a file that may be read", why) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(name, "a regular file", "a directory, device, pipe or socket")
    with os.fdopen(descriptor, "rb") as stream:
        raw = stream.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise _refused(name, f"at most {bytes_shown(FILE_BYTES_MAX)}", "more")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        got = f"byte `0x{raw[error.start]:02x}`"
        raise _refused(name, "text in UTF-8", got, "is this a binary file?", line=line) from None
    if (bad := text.find("\0")) >= 0:
        line = text.count("\n", 0, bad) + 1
        raise _refused(name, "text", "a zero byte", "is this a binary file?", line=line)
    return text


def _refused(name: str, expected: str, got: str, hint: str = "", *, line: int = 0) -> ConfigErrors:
    column = 1 if line else 0
    return ConfigErrors([Diagnostic(file=name, line=line, column=column, expected=expected, got=got, hint=hint)])
