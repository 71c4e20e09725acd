"""Compiled kernels on disk, addressed by what they were compiled from.

One entry is one folder, ``<key[:2]>/<key>/`` with ``kernel.so`` and ``entry.json``.  An entry is
built aside and renamed into place, so other processes see all of it or nothing, and the first of
two that build the same entry wins.  An entry whose bytes do not match its recorded digest is
dropped and built again.  When the folder outgrows its bound, the entries used longest ago go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tensordsl.codegen.toolchain import storage_error, write_bytes

from tensordsl.settings import settings

#: Part of every key: raised when the layout of an entry or the way of compiling changes.
SCHEMA = 1
#: An entry used this recently is kept: another process may be about to load it.
GRACE_S = 600.0
#: After pruning the cache is at most this share of its bound, so that pruning is rare.
LOW_WATER = 0.8
#: The size is looked at once this share of the bound was written by this process.
CHECK_SHARE = 0.02
#: What to do where the folder cannot be written.
ELSEWHERE = "compiled kernels are kept there: set TD_CACHE_DIR to a folder that can be written"
#: Work folders older than this belong to processes that died.
STALE_S = 3600.0


class Entry(msgspec.Struct, frozen=True):
    """What ``entry.json`` says: the schema, the exported symbol, the digest of kernel.so, and notes
    for people (compiler, flags).
    """

    schema: int
    symbol: str
    digest: str
    notes: dict[str, str]


@dataclass(slots=True)
class KernelCache:
    """root: the folder; limit_bytes: bound on its size (a soft one, see GRACE_S)."""

    root: Path
    limit_bytes: int
    _unchecked_bytes: float = field(default=float("inf"), repr=False)  # the first put looks at the size

    def get(self, key: str) -> tuple[Path, str] | None:
        """The shared object and its symbol, or None.  A damaged entry is removed."""
        folder = self._folder(key)
        try:
            raw = (folder / "entry.json").read_bytes()
        except OSError:
            return None
        library = folder / "kernel.so"
        try:
            entry = msgspec.json.decode(raw, type=Entry)
            intact = entry.schema == SCHEMA and _digest(library.read_bytes()) == entry.digest
        except (OSError, msgspec.DecodeError):
            intact = False
        if not intact:
            self._remove(folder)
            return None
        with contextlib.suppress(OSError):  # a read-only cache still serves
            os.utime(folder / "entry.json")
        return library, entry.symbol

    def put(self, key: str, library: Path, symbol: str, notes: Mapping[str, str], text: str | None = None) -> Path:
        """Store a shared object (linked where the file system can, so that many entries may share one
        file); returns its place in the cache.  Raises BuildError when nothing can be written.
        """
        folder = self._folder(key)
        with self.work() as aside:
            made = aside / "entry"
            try:
                made.mkdir()
                _link(library, made / "kernel.so")
                entry = Entry(SCHEMA, symbol, _digest((made / "kernel.so").read_bytes()), dict(notes))
                write_bytes(made / "entry.json", msgspec.json.format(msgspec.json.encode(entry)))
                if text is not None:
                    write_bytes(made / "kernel.c", text.encode())
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    made.rename(folder)
                except OSError:
                    if not (folder / "entry.json").exists():  # not merely lost the race
                        raise
            except OSError as error:
                raise storage_error(error, folder, ELSEWHERE) from None
        self._unchecked_bytes += library.stat().st_size
        if self._unchecked_bytes > CHECK_SHARE * self.limit_bytes:
            self.prune()
        return folder / "kernel.so"

    @contextlib.contextmanager
    def work(self) -> Iterator[Path]:
        """A folder on the cache's file system that is gone afterwards."""
        base = self.root / "work"
        try:
            base.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=base))
        except OSError as error:
            raise storage_error(error, base, ELSEWHERE) from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def prune(self) -> int:
        """Remove the entries used longest ago until the bound holds; returns how many went.

        One process prunes at a time; the others go on without.
        """
        from filelock import FileLock, Timeout

        self._unchecked_bytes = 0
        try:
            with FileLock(self.root / "prune.lock", timeout=0):
                return self._prune()
        except (Timeout, OSError):
            return 0

    def size_bytes(self) -> int:
        """The bytes of all entries."""
        return int(sum(size for _, size, _ in self._entries()))

    def _prune(self) -> int:
        now = time.time()
        for stale in (self.root / "work").iterdir() if (self.root / "work").is_dir() else ():
            with contextlib.suppress(OSError):
                if now - stale.stat().st_mtime > STALE_S:
                    shutil.rmtree(stale, ignore_errors=True)
        entries = sorted(self._entries(), key=lambda e: e[0])
        total = sum(size for _, size, _ in entries)
        if total <= self.limit_bytes:
            return 0
        removed = 0
        for used, size, folder in entries:
            if total <= LOW_WATER * self.limit_bytes or now - used < GRACE_S:
                break
            self._remove(folder)
            total -= size
            removed += 1
        return removed

    def _entries(self) -> Iterator[tuple[float, float, Path]]:
        """(last use, bytes, folder) of every entry; a shared file counts in equal parts."""
        for folder in self.root.glob("??/*"):
            try:
                used = (folder / "entry.json").stat().st_mtime
                files = [f.stat() for f in folder.iterdir()]
            except OSError:
                continue  # being removed by another process
            yield used, sum(f.st_size / max(1, f.st_nlink) for f in files), folder

    def _remove(self, folder: Path) -> None:
        """Take an entry away at once, then delete it: no other process sees half of it."""
        with contextlib.suppress(OSError), self.work() as aside:
            folder.rename(aside / "entry")

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key


def kernel_cache() -> KernelCache:
    """The cache of the environment: TD_CACHE_DIR, or the user's cache folder."""
    from platformdirs import user_cache_path

    now = settings()
    return _cache(now.cache_dir or user_cache_path("tensordsl") / "kernels", now.cache_bytes)


_CACHES: dict[tuple[Path, int], KernelCache] = {}


def _cache(root: Path, limit_bytes: int) -> KernelCache:
    root = root.absolute()
    return _CACHES.setdefault((root, limit_bytes), KernelCache(root, limit_bytes))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
