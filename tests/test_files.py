"""Files that appear whole or not at all, and locks."""

import errno
import fcntl
import os
import stat

import pytest

from repro import files
from repro.errors import ReproError


def write(path, text):
    with files.write_atomically(path) as temporary:
        temporary.write_text(text)


def test_a_link_stays_one_and_what_it_names_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link.csv", tmp_path / "elsewhere" / "target.csv"
    link.symlink_to(target)
    for text in ("new", "newer"):
        files.require_writable(link)
        write(link, text)
        assert link.is_symlink() and target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["target.csv"]


def test_a_link_to_itself_is_replaced(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "link.csv")
    write(tmp_path / "link.csv", "new")
    assert not (tmp_path / "link.csv").is_symlink() and (tmp_path / "link.csv").read_text() == "new"


@pytest.mark.parametrize("attempt", [files.require_writable, lambda path: write(path, "x")])
def test_a_pipe_is_refused_and_left_alone(tmp_path, attempt):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(ReproError, match=r"Cannot write .*pipe\.csv: it is a pipe, a device or the like"):
        attempt(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("busy", [None, "Another process is training here."])
def test_a_lock_that_cannot_be_is_not_called_held(tmp_path, busy, monkeypatch):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ReproError, match=r"^Cannot lock .*\.lock: No locks available\.$"),
        files.locked(tmp_path / ".lock", busy),
    ):
        pass


def test_a_lock_that_is_held_is_said(tmp_path):
    with (
        files.locked(tmp_path / ".lock"),
        pytest.raises(ReproError, match="busy"),
        files.locked(tmp_path / ".lock", "busy"),
    ):
        pass
