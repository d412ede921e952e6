"""`prdp-hpc config`: a config with all defaults, the shipped configs, and the JSON schema."""

from __future__ import annotations

import argparse
import json

from prdp_hpc.config import load_config
from prdp_hpc.config.schema import config_schema
from prdp_hpc.config.yaml_files import shipped_configs
from prdp_hpc.console import Table, show
from prdp_hpc.errors import InputError


def config(arguments: argparse.Namespace) -> None:
    """Print the resolved config, the JSON schema, or the list of shipped configs."""
    if arguments.schema:
        show(json.dumps(config_schema(), indent=1, ensure_ascii=False))
    elif arguments.list:
        show(_list())
    elif arguments.config is None:
        raise InputError("give a config, or --schema, or --list")
    else:
        show(load_config(arguments.config, arguments.overrides).to_yaml().rstrip("\n"))


def _list() -> Table:
    rows = [["config", "description"]]
    for name, path in shipped_configs().items():
        rows.append([name, _first_sentence(path.read_text(encoding="utf-8"))])
    return Table(rows, "<<")


def _first_sentence(text: str) -> str:
    """The first sentence of the comment at the top of a file."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comment = " ".join(line.lstrip("# ") for line in lines[:end])
    return comment.split(". ")[0].rstrip(".:")
