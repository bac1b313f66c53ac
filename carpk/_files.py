"""Files written whole or not at all.

A file is written under a temporary name in its folder, synced, and renamed: whatever happens on the
way, there is the old file or the new one. Temporary files of a process that was killed are hidden
(`.part-...`), never read, and removed by a later write of the same file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from carpk.errors import SaveError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AnyPath = TypeVar("AnyPath", bound=str | os.PathLike[str])

PART = ".part-"
LEFT_BEHIND = 3600.0  # seconds: no file takes longer to write
LONGEST = 60  # characters of a name kept in the temporary one: 240 bytes; names have 255


def write(path: str | os.PathLike[str], content: bytes | memoryview | str) -> Path:
    """Write one file, whole or not at all; folders on the way are made.

    Args:
        path: a symbolic link stays one: the file it points to is replaced.
        content: text is written as UTF-8, its lines ended by a line feed on every system.

    Raises:
        SaveError: the folder or disk does not take the file; what was there is as it was.
    """
    return write_all({path: content})[0]


def write_all(files: Mapping[AnyPath, bytes | memoryview | str]) -> list[Path]:
    """Write files that belong together: all are on the disk before the first gets its name."""
    staged: list[tuple[Path, Path, Path]] = []
    paths = [Path(path) for path in files]
    path = paths[0]
    try:
        for path, content in zip(paths, files.values(), strict=True):
            target = Path(os.path.realpath(path))
            if target.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not target.is_file():  # a pipe, /dev/stdout
                target.write_bytes(_bytes(content))
                continue
            if target.exists() and not os.access(target, os.W_OK):
                raise PermissionError(None, "the file is write-protected")
            part = target.with_name(f"{PART}{secrets.token_hex(4)}-{target.name[-LONGEST:]}")
            staged.append((path, part, target))
            with part.open("xb") as file:
                file.write(_bytes(content))
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, part)
        for path, part, target in staged:  # noqa: B007
            part.replace(target)
    except OSError as trouble:
        raise SaveError(
            f"{str(path)!r} cannot be written ({trouble.strerror or trouble}); what was there "
            "is as it was. Free space, or choose another folder."
        ) from trouble
    finally:
        for _, part, _ in staged:
            part.unlink(missing_ok=True)
    for _, _, target in staged:
        _sync_folder(target.parent)
        _remove_left_behind(target)
    return paths


def require_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder and see that it takes files, before long work whose result goes there."""
    try:
        probe = write(Path(folder) / f"{PART}{secrets.token_hex(4)}", b"carpk")
    except SaveError as trouble:
        reason = trouble.__cause__
        raise SaveError(
            f"The folder {str(folder)!r} cannot be written to "
            f"({getattr(reason, 'strerror', None) or reason}). Choose another."
        ) from reason
    probe.unlink(missing_ok=True)
    return Path(folder)


def write_figure(path: str | os.PathLike[str], figure: Figure, **options: Any) -> Path:
    """Write a Matplotlib figure; the suffix of `path` says the format."""
    content = BytesIO()
    figure.savefig(content, format=Path(path).suffix.removeprefix(".") or "png", **options)
    return write(path, content.getvalue())


def is_part(name: str) -> bool:
    """Whether a file of this name is a temporary one."""
    return name.startswith(PART)


def _bytes(content: bytes | memoryview | str) -> bytes | memoryview:
    if not isinstance(content, str):
        return content
    return content.replace("\r\n", "\n").encode()  # pandas ends lines as the system does


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too; not every file system can say so."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_left_behind(target: Path) -> None:
    """Remove temporary files of this file whose writer was killed."""
    with contextlib.suppress(OSError):
        for part in target.parent.glob(f"{PART}????????-*"):
            own = part.name[len(PART) + 9 :] == target.name[-LONGEST:]
            if own and time.time() - part.stat().st_mtime > LEFT_BEHIND:
                part.unlink()
