"""Put a library's files in place: all of them, or none.

Files are made aside, on the same file system, and renamed over the old ones one by one, so each is
always whole; where a rename fails, those already done are undone.  The manifest, which holds the
digest of every file, goes last: it tells whether a builder was killed in between.  Other files of
the folder are never touched (which is why the folder itself is not exchanged).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from tensordsl.codegen.cache import ELSEWHERE, kernel_cache
from tensordsl.codegen.toolchain import storage_error, write_bytes

from tensordsl.errors import BuildError


@contextlib.contextmanager
def workplace(directory: Path, library: str) -> Iterator[Path]:
    """An empty folder inside ``directory`` that is gone afterwards, for one builder at a time."""
    from filelock import FileLock

    created = [p for p in (directory, *directory.parents) if not p.exists()]
    digest = hashlib.sha256(f"{directory.resolve()}\0{library}".encode()).hexdigest()[:16]
    locks = kernel_cache().root / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, locks, ELSEWHERE) from None
    try:
        with FileLock(locks / f"{digest}.lock"):
            directory.mkdir(parents=True, exist_ok=True)
            for stale in directory.glob(f".{library}-*"):  # of a builder that died: the lock is ours
                shutil.rmtree(stale, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{library}-", dir=directory))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                for p in created:  # innermost first; what is not empty stays
                    with contextlib.suppress(OSError):
                        p.rmdir()
    except OSError as error:
        raise storage_error(error, directory / library) from None


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their relative paths."""
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, data)


def install(made: Path, directory: Path, manifest: str) -> None:
    """Move every file under ``made`` to its place in ``directory``; files that only the library's
    older manifest names are removed.  Raises BuildError, with everything as it was before.
    """
    new = [p.relative_to(made) for p in sorted(made.rglob("*")) if p.is_file()]
    new.sort(key=lambda p: p == Path(manifest))
    old = [Path(p) for p in listed(directory / manifest) if Path(p) not in set(new)]
    backup = Path(tempfile.mkdtemp(prefix=".old-", dir=made.parent))
    done: list[Path] = []
    try:
        for path in [*new, *old]:
            (backup / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            if (directory / path).is_dir():
                raise IsADirectoryError(21, "a folder is in the way", str(directory / path))
            with contextlib.suppress(FileNotFoundError):
                _keep(directory / path, backup / path)
        for path in new:
            done.append(path)
            os.replace(made / path, directory / path)
        for path in old:
            done.append(path)
            (directory / path).unlink(missing_ok=True)
    except BaseException as error:
        _restore(done, backup, directory)
        _drop_empty(directory, [*new, *old])
        if isinstance(error, OSError):
            raise storage_error(error, directory / (done[-1] if done else manifest)) from None
        raise
    _drop_empty(directory, old)


def _keep(current: Path, place: Path) -> None:
    """A second name for a file (a copy where the file system has no links)."""
    try:
        os.link(current, place)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(current, place)


def _restore(done: Sequence[Path], backup: Path, directory: Path) -> None:
    for path in reversed(done):
        if (backup / path).exists():
            os.replace(backup / path, directory / path)
        else:
            (directory / path).unlink(missing_ok=True)


def _drop_empty(directory: Path, paths: Sequence[Path]) -> None:
    """Remove folders that were left without files."""
    for folder in {directory / p for path in paths for p in path.parents if p != Path(".")}:
        for p in (folder, *folder.parents):
            if p == directory:
                break
            with contextlib.suppress(OSError):
                p.rmdir()


def listed(manifest: Path) -> list[str]:
    """The files an installed manifest names (none where there is no readable one).

    Only paths inside the folder count: a manifest is a text anyone may have edited.
    """
    try:
        files = json.loads(manifest.read_text()).get("files", {})
    except (OSError, ValueError, AttributeError):
        return []
    paths = [PurePosixPath(p) for p in files if isinstance(p, str)]
    return [str(p) for p in paths if not p.is_absolute() and ".." not in p.parts]


def owned(directory: Path, library: str, manifest: str) -> None:
    """Refuse to overwrite a header or library that another generator put there."""
    header = directory / "include" / f"{library}.h"
    if header.exists() and not (directory / manifest).exists():
        raise BuildError(
            f"{header} exists and was not generated as part of {library!r}",
            hint="choose another name or folder, or remove it first",
        )
