"""What the page on running it again shows of other people's machines: links that open the notebooks there.

They need the repository's address, which a checkout knows only if it came from there: without it nothing is shown.
"""

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import quote

from repro import files

BRANCH = "main"  # the one that .github/workflows/study.yml publishes the book from
NOTEBOOKS = {
    "gallery": "your own photograph",
    "first_look": "a minute of training",
    "operator": "the deformable convolution",
}
"""Those that need neither data sets nor hours."""


def write_all(folder: Path) -> None:
    """Write the fragment into ``folder``."""
    with files.write_atomically(folder / "badges.md") as path:
        path.write_text(describe_badges(find_repository()).strip() + "\n", encoding="utf-8")


def describe_badges(repository: str | None) -> str:
    """Links to Binder and Colab for ``owner/name`` on GitHub; a comment that nobody sees for None."""
    if repository is None:
        return "<!-- No badges: the repository's address on GitHub is not known here. -->"
    rows = [
        f"| `{name}`: {title} | {_badge('binder', f'Open {name} in Binder', address_binder(repository, name))} "
        f"| {_badge('colab', f'Open {name} in Colab', address_colab(repository, name))} |"
        for name, title in NOTEBOOKS.items()
    ]
    table = "\n".join(["| notebook | Binder, JupyterLab | Colab |", "|---|---|---|", *rows])
    return (
        "## On somebody else's machine\n\n"
        f"{table}\n\n"
        "Binder installs `environment.yml` first, which takes many minutes whenever nobody has asked for this version "
        "before. Colab brings a Python of its own without this package: put the lines below into a first cell, run it, "
        "and restart the session should Colab ask for it. What you upload goes to these machines. A test checks that "
        "the files for this are there and of the right kind; on Binder and Colab themselves nothing has been tried "
        "yet.\n\n"
        "```text\n"
        f"!git clone --depth 1 https://github.com/{repository} study\n"
        "%cd study\n"
        "%pip install --quiet --editable .\n"
        "```"
    )


def find_repository() -> str | None:
    """``owner/name`` on GitHub: of the workflow that runs, else of the remote ``origin``; None where it is neither."""
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    name = os.environ.get("GITHUB_REPOSITORY", "")
    return read_address(f"{server}/{name}") or read_address(_ask_git())


def read_address(address: str) -> str | None:
    """``owner/name`` of a repository's address where that is on GitHub; whatever else the address holds is dropped."""
    names = r"(?P<name>[\w.-]+/[\w.-]+?)(?:\.git)?/?"
    match = re.fullmatch(rf"(?:https://(?:[^@/]+@)?|ssh://git@|git@)github\.com[:/]{names}", address.strip())
    return match["name"] if match else None


def _ask_git() -> str:
    command = ["git", "-C", str(files.root()), "remote", "get-url", "origin"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, no remote
        return ""


def address_binder(repository: str, name: str) -> str:
    path = quote(f"lab/tree/notebooks/{name}.ipynb", safe="")
    return f"https://mybinder.org/v2/gh/{repository}/{BRANCH}?urlpath={path}"


def address_colab(repository: str, name: str) -> str:
    return f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/notebooks/{name}.ipynb"


def _badge(image: str, alt: str, address: str) -> str:
    return f"[![{alt}](_static/{image}.svg)]({address})"
