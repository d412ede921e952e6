"""The built site needs no network and no server."""

import pages
from mkdocs.config import load_config


def test_all_scripts_of_the_site_are_in_the_tree(monkeypatch):
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    config = load_config(str(pages.ROOT / "mkdocs.yml"))
    config = config.plugins.on_config(config)
    # The plugin `offline` adds the address of a Web Worker for files where none is given.
    polyfills = config.extra["polyfills"]
    assert any("iframe-worker" in name for name in polyfills)
    scripts = [*polyfills, *map(str, config.extra_javascript)]
    assert all((pages.ROOT / "docs" / name).is_file() for name in scripts)
