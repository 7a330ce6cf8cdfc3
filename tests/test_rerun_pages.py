"""Links that open the notebooks on other people's machines: only where the address is known, and then right."""

import re
import subprocess
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from repro import files, rerun_pages

ROOT = files.root()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://github.com/someone/denoisers", "someone/denoisers"),
        ("https://github.com/someone/de.noisers.git\n", "someone/de.noisers"),
        ("https://secret@github.com/someone/denoisers.git", "someone/denoisers"),
        ("git@github.com:someone/denoisers.git", "someone/denoisers"),
        ("ssh://git@github.com/some-one/de_noisers/", "some-one/de_noisers"),
        ("https://example.org/someone/denoisers", None),
        ("https://github.com.example.org/someone/denoisers", None),
        ("https://github.com/someone", None),
        ("https://github.com/", None),
        ("/srv/git/github.com/someone/denoisers", None),
        ("", None),
    ],
)
def test_addresses_on_github_are_read_and_no_others(address, name):
    assert rerun_pages.read_address(address) == name


def test_the_workflow_s_repository_comes_before_the_remote(monkeypatch):
    monkeypatch.setattr(rerun_pages, "_ask_git", lambda: "git@github.com:a/fork.git")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    assert rerun_pages.find_repository() == "a/fork"
    monkeypatch.setenv("GITHUB_REPOSITORY", "the/study")
    assert rerun_pages.find_repository() == "the/study"
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example.org")
    assert rerun_pages.find_repository() == "a/fork"
    monkeypatch.setattr(rerun_pages, "_ask_git", lambda: "")
    assert rerun_pages.find_repository() is None


def test_without_git_or_a_remote_there_is_no_address(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    assert rerun_pages._ask_git() == ""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert rerun_pages._ask_git() == ""
    monkeypatch.setenv("PATH", "")
    assert rerun_pages._ask_git() == ""


def test_without_an_address_nothing_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(rerun_pages, "find_repository", lambda: None)
    rerun_pages.write_all(tmp_path)
    shown = (tmp_path / "badges.md").read_text()
    assert re.sub(r"<!--.*?-->", "", shown, flags=re.DOTALL).strip() == ""


def test_badges_point_at_files_that_exist():
    shown = rerun_pages.describe_badges("someone/denoisers")
    badges = re.findall(r"\[!\[([^]]+)\]\(([^)]+)\)\]\(([^)]+)\)", shown)
    assert len(badges) == 2 * len(rerun_pages.NOTEBOOKS)
    for alt, picture, address in badges:
        parts = urlsplit(address)
        if parts.netloc == "mybinder.org":
            repository, path = parts.path.removeprefix("/v2/gh/"), parse_qs(parts.query)["urlpath"][0]
            repository, path = repository.removesuffix(f"/{rerun_pages.BRANCH}"), path.removeprefix("lab/tree/")
        else:
            assert parts.netloc == "colab.research.google.com"
            repository, path = unquote(parts.path).removeprefix("/github/").split(f"/blob/{rerun_pages.BRANCH}/")
        assert repository == "someone/denoisers"
        assert (ROOT / path).is_file() and path.endswith(".ipynb") and path.split("/")[1].split(".")[0] in alt
        assert (ROOT / "book" / picture).is_file()


def test_the_branch_is_the_one_that_is_published():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "study.yml").read_text())
    assert workflow[True]["push"]["branches"] == [rerun_pages.BRANCH]  # YAML reads the key `on` as true


def test_binder_finds_what_it_builds_from():
    """repo2docker takes environment.yml at the root unless a folder for Binder hides it, and copies the whole
    repository before it installs only where a requirement is local."""
    assert not any((ROOT / name).exists() for name in ("binder", ".binder", "Dockerfile"))
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert any(re.fullmatch(r"python=3\.\d+", entry) for entry in listed if isinstance(entry, str))
    local = [line for entry in listed if isinstance(entry, dict) for line in entry["pip"] if line.startswith("-")]
    assert local == ["--requirement requirements.lock", "--editable ."]
    assert (ROOT / "requirements.lock").is_file() and (ROOT / "pyproject.toml").is_file()
