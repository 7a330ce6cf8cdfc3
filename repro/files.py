"""Where the study keeps things, and how it writes a file without ever leaving half of one behind."""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path

from repro.errors import ReproError

PATIENCE = 10  # tries, 20 ms apart, before a lock counts as held


def _read_umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


UMASK = _read_umask()  # once, since to read it is to change it, and threads write side by side


def root() -> Path:
    """The repository: the folder that holds the package, the notebooks, the book and the results."""
    return Path(__file__).resolve().parent.parent


def results() -> Path:
    """Committed claims, records, curves and weights."""
    return root() / "results"


def cache() -> Path:
    """Downloads and compiled kernels of this user: ``$REPRO_CACHE``, or the system's cache folder."""
    return Path(os.environ.get("REPRO_CACHE") or user_cache_path("repro"))


def runs() -> Path:
    """Unfinished runs, one folder ``<experiment>/seed<k>`` each: ``$REPRO_RUNS``, or inside the cache."""
    return Path(os.environ.get("REPRO_RUNS") or cache() / "runs")


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` when the block ends without an error.

    A reader therefore sees the old file or the new one, whatever happens in between: a kill, a full disk, an
    exception. The temporary name keeps the suffix, for libraries that choose the format by it. An ``OSError``
    becomes a :class:`ReproError` that names the file and the reason. Where ``path`` is a link, the file that it
    names is written; a pipe or a device is refused.
    """
    temporary = None
    try:
        target = _resolve(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~UMASK)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        raise ReproError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def require_writable(path: str | Path) -> None:
    """Raise the ReproError that :func:`write_atomically` would raise, before hours of work rather than after."""
    try:
        target = _resolve(path)
        if target.is_dir():
            raise ReproError(f"{path} is a folder; name a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".", dir=target.parent):
            pass
    except OSError as error:
        raise ReproError(f"Cannot write {path}: {error.strerror or error}.") from error


def _resolve(path: str | Path) -> Path:
    """The file that is meant, links followed. A rename would put a file in the place of a pipe or a device."""
    target = Path(os.path.realpath(path))  # pathlib's raises another error for links in a circle
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise ReproError(f"Cannot write {path}: it is a pipe, a device or the like; name a file.")
    return target


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file ``path`` within the block; the kernel releases it however the process ends.

    Where another process holds it, a ReproError says ``busy``, after a few tries: who only asks whether it is held
    holds it for a moment. Without such a sentence, wait.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise ReproError(f"Cannot write in {path.parent}: {error.strerror}.") from error
    with handle:
        for remaining in range(PATIENCE if busy else 1, 0, -1):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
                break
            except BlockingIOError:
                if remaining == 1:
                    raise ReproError(busy) from None
                time.sleep(0.02)
            except OSError as error:  # a file system that knows no locks, for one
                raise ReproError(f"Cannot lock {path}: {error.strerror}.") from error
        yield


def sha256(path: Path) -> str:
    """Checksum of a file's bytes, in hexadecimal. Raises :class:`ReproError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReproError(f"Cannot read {path}: {error.strerror}.") from None
