"""Pages that show files of the repository which the documentation links to."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

LINK = re.compile(r"(?<!!)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s#]+)(#[^)\s]*)?\)")
LANGUAGES = {
    ".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".json": "json", ".def": "text"
}  # fmt: skip


def pages(root: Path) -> dict[str, str]:
    """The pages of all files that are linked, by their path in the site."""
    found: dict[str, str] = {}
    waiting = [(path, f"docs/{path.relative_to(root / 'docs')}") for path in _written(root)]
    while waiting:
        path, place = waiting.pop()
        for target in _targets(path.read_text(encoding="utf-8"), place, root):
            uri = page_of(target, root)
            if uri not in found:
                found[uri] = _page(target, root)
                if _readme(target, root).suffix == ".md":
                    readme = _readme(target, root)
                    waiting.append((readme, str(readme.relative_to(root))))
    return found


def with_site_links(markdown: str, uri: str, root: Path) -> str:
    """Replace links to files outside `docs/` by links to their pages."""
    place = _place(uri, root)

    def replaced(match: re.Match[str]) -> str:
        text, link, anchor = match.group(1), match.group(2), match.group(3) or ""
        target = _resolved(link, place)
        if target is None or not (root / target).exists():
            return match.group(0)
        inside = target.startswith("docs/")
        page = target.removeprefix("docs/") if inside else page_of(target, root)
        return f"{text}({os.path.relpath(page, PurePosixPath(uri).parent)}{anchor})"

    return LINK.sub(replaced, markdown)


def page_of(target: str, root: Path) -> str:
    """Where the site shows a file of the repository."""
    return f"files/{target.rstrip('/')}.md"


def _place(uri: str, root: Path) -> str:
    """The file of the repository that a page of the site shows."""
    if not uri.startswith("files/"):
        return f"docs/{uri}"
    target = uri.removeprefix("files/").removesuffix(".md")
    return str(_readme(target, root).relative_to(root))


def _written(root: Path) -> list[Path]:
    return sorted((root / "docs").rglob("*.md"))


def _resolved(link: str, place: str) -> str | None:
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    return os.path.normpath(PurePosixPath(place).parent / link)


def _targets(text: str, place: str, root: Path) -> set[str]:
    links = (_resolved(match.group(2), place) for match in LINK.finditer(text))
    return {
        link
        for link in links
        if link and not link.startswith(("docs/", "..")) and (root / link).exists()
    }


def _readme(target: str, root: Path) -> Path:
    """The README of a folder, or the file itself."""
    path = root / target
    return path / "README.md" if (path / "README.md").is_file() else path


def _page(target: str, root: Path) -> str:
    path = root / target
    if path.is_file():
        return path.read_text(encoding="utf-8") if path.suffix == ".md" else _shown(path, root)
    readme = _readme(target, root)
    title = _contents(path, target) if readme == path else readme.read_text(encoding="utf-8")
    files = [file for file in sorted(path.iterdir()) if file.suffix in LANGUAGES]
    return "\n\n".join([title, *(_shown(file, root, "##") for file in files)])


def _contents(path: Path, target: str) -> str:
    """The title of a folder, and links to the folders in it that have a README."""
    inner = sorted(folder for folder in path.iterdir() if (folder / "README.md").is_file())
    heads = [(folder / "README.md").read_text(encoding="utf-8").splitlines()[0] for folder in inner]
    links = [
        f"- [`{folder.name}`]({path.name}/{folder.name}.md): {head.removeprefix('# ')}"
        for folder, head in zip(inner, heads, strict=True)
    ]
    return "\n".join([f"# `{target}`", "", *links])


def _shown(path: Path, root: Path, heading: str = "#") -> str:
    language = LANGUAGES.get(path.suffix, "text")
    text = path.read_text(encoding="utf-8").rstrip()
    return f"{heading} `{path.relative_to(root)}`\n\n````{language}\n{text}\n````\n"
