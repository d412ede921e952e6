"""Property: the commands, configs and Python blocks that pages show are accepted and run."""

import pages
import pytest
import run_tutorials
import yaml

from prdp_hpc.cli import _arguments
from prdp_hpc.config.experiment import validate
from prdp_hpc.config.paper import Paper
from prdp_hpc.config.site import Site

EACH = pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)

EMULATOR = {"task": "emulator", "name": "page", "grid": {"shape": [16, 16]},
            "physics": {"pde": "heat", "dt": 1.0}, "network": {}}  # fmt: skip
CORRECTOR = {**EMULATOR, "task": "corrector"}
INVERSION = {"task": "field_inversion", "name": "page", "grid": {"shape": [16, 16]},
             "physics": {"pde": "poisson"}}  # fmt: skip
# What a snippet without a task completes to a config, by a section that only this task has.
BASES = {"experiments": INVERSION, "unknown": INVERSION, "corrector": CORRECTOR}


@EACH
def test_every_command_line_is_one_of_the_parser(page):
    refused = [words for words in pages.commands(page) if _exit_code(words)]
    assert not refused


def _exit_code(words):
    """0 for a command line that is accepted, or that only shows help or the version."""
    try:
        _arguments(words)
    except SystemExit as ended:
        return ended.code
    return 0


@EACH
def test_every_config_is_valid(page):
    for block in page.blocks:
        if block.language == "yaml":
            _check_config(yaml.safe_load(block.text))


def _check_config(content):
    if not isinstance(content, dict) or ".py:" in str(content):
        return  # keys of other programs, or of the reader's own files
    if isinstance(content.get("experiments"), dict) and any(
        isinstance(entry, dict) and "config" in entry for entry in content["experiments"].values()
    ):
        Paper.model_validate(content)
        return
    if content.keys() <= Site.model_fields.keys():
        Site.model_validate(content)
        return
    if "task" not in content:
        base = next((BASES[key] for key in content if key in BASES), EMULATOR)
        content = {**base, **content}
    validate(content, "page")


@EACH
def test_every_python_block_compiles(page):
    for block in pages.python_blocks(page):
        compile(block.text, f"{pages.name_of(page)}:{block.line}", "exec")


def _complete():
    return [
        pytest.param(block, id=f"{pages.name_of(page)}:{block.line}")
        for page in pages.PAGES
        if page.path.parent != run_tutorials.TUTORIALS
        for block in pages.python_blocks(page)
        if pages.is_complete(block) and ("import" in block.text)
    ]


@pytest.mark.parametrize("block", _complete())
def test_complete_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, "page", "exec"), {"__name__": "__page__"})
