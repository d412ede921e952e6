"""What MkDocs does besides rendering `docs/`: it generates the reference pages and shows linked
files of the repository as pages.

The pages are made at each build, from the code itself, so no copy of them can be out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import api_reference
import cli_reference
import config_reference
import repository_pages
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        **api_reference.pages(),
        "reference/configuration.md": config_reference.page(),
        "reference/cli.md": cli_reference.page(),
        **repository_pages.pages(ROOT),
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files of the repository outside `docs/` lead to the pages that show them."""
    return repository_pages.with_site_links(markdown, page.file.src_uri, ROOT)
