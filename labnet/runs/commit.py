"""The git commit of the working directory, read from its files."""

from pathlib import Path


def commit_of(folder: Path | None = None) -> str:
    """Return the commit that a folder's repository has checked out; empty outside of one.

    Examples
    --------
    >>> commit_of(Path("/"))
    ''
    """
    try:
        start = (folder or Path.cwd()).absolute()
        found = next((each / ".git" for each in (start, *start.parents) if (each / ".git").exists()), None)
        if found is None:
            return ""
        if found.is_file():  # a worktree or submodule
            found = (found.parent / found.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (found / "HEAD").read_text().strip()
        name = head.partition("ref: ")[2]
        if not name:
            return head
        shared = found / (found / "commondir").read_text().strip() if (found / "commondir").is_file() else found
        for place in (found / name, shared / name):
            if place.is_file():
                return place.read_text().strip()
        lines = (shared / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""
