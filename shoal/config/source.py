"""Read a config file from disk: text or one clear refusal, whatever the path points at."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

import msgspec

from shoal.config.diagnostics import ConfigErrors, Diagnostic
from shoal.foundation.amounts import bytes_shown

FILE_BYTES_MAX = 512 * 1024
"""No cluster file is near this; what is larger is a data file given by mistake."""

_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file's text and its hash (blake2b of the bytes, 32 hex digits), under the name the user gave it."""

    file: str
    text: str
    text_hash: str


def read(path: Path) -> Source:
    """Return the text of `path`.

    Raises:
        ConfigErrors: there is no such file, it is none, may not be read, is too large, or is not text.
    """
    name = str(path)
    try:
        # Opened without blocking, so that a named pipe is refused instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _refused(name, "a file", "no such file", "`shoal validate PATH` takes the path of a YAML file") from None
    except PermissionError:
        raise _refused(name, "a file that may be read", "permission denied") from None
    except (OSError, ValueError) as error:
        raise _refused(name, "a file", (getattr(error, "strerror", None) or str(error)).lower()) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise _refused(name, "a file", "a directory", "name the YAML file in it")
        if not stat.S_ISREG(mode):
            raise _refused(name, "a regular file", "a device, pipe or socket")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _refused(name, "a file that can be read", str(error.strerror).lower()) from None
    finally:
        os.close(descriptor)
    return decode(raw, name)


def decode(raw: bytes, name: str) -> Source:
    """Return `raw` as text.

    Raises:
        ConfigErrors: too large, not UTF-8, or with characters that no text file has.
    """
    if len(raw) > FILE_BYTES_MAX:
        raise _refused(
            name,
            f"at most {bytes_shown(FILE_BYTES_MAX)}",
            "more",
            "a cluster file describes machines; keep data and scripts in files of their own",
        )
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused(name, "text in UTF-8", "UTF-16", "save the file as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        raise _refused(
            name,
            "text in UTF-8",
            f"byte `0x{raw[error.start]:02x}`",
            "is this a binary file?",
            line=before.count(b"\n") + 1,
            column=error.start - (before.rfind(b"\n") + 1) + 1,
        ) from None
    if bad := _FORBIDDEN.search(text):
        raise _refused(
            name,
            "text",
            f"control character `\\x{ord(bad[0]):02x}`",
            "is this a binary file?",
            line=text.count("\n", 0, bad.start()) + 1,
            column=bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1,
        )
    return Source(file=name, text=text, text_hash=hashlib.blake2b(raw, digest_size=16).hexdigest())


def _refused(name: str, expected: str, got: str, hint: str = "", *, line: int = 0, column: int = 0) -> ConfigErrors:
    return ConfigErrors([Diagnostic(file=name, line=line, column=column, expected=expected, got=got, hint=hint)])
