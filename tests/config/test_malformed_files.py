"""Reliability: every mistake in a config file or an override causes one message with the file, the
key, and what to do.
"""

import pytest
import tiny
import yaml

from prdp_hpc.config import ConfigError, load_config

OVERRIDES = [
    (
        "training.epochs",
        ["'training.epochs' is not of the form section.key=value", "training.epochs=10"],
    ),
    ("=5", ["'=5' is not of the form section.key=value"]),
    ("training..epochs=5", ["not of the form section.key=value"]),
    ("training.epochs=[1", ["training.epochs: the value '[1' is not valid YAML"]),
    ("seed={[1]: 2}", ["seed: the value '{[1]: 2}' is not valid YAML"]),
    ("seed={a: 1, a: 2}", ["seed", "a: given twice"]),
    ("seed=2024-13-45", ["seed: the value '2024-13-45' is not valid YAML"]),
    ("seed=" + "[" * 10_000, ["seed: the value"]),
    ("name.first=5", ["name.first: name is a value, not a section"]),
    ("training.epochs=", ["training.epochs: must be a valid integer, not None"]),
    ("trainin.epochs=3", ["trainin: unknown key; did you mean 'training'?"]),
]
FILES = [
    (b"", ["must contain keys and sections", "not nothing"]),
    (b"- a\n- b\n", ["must contain keys and sections", "not a list"]),
    (b"just words", ["must contain keys and sections", "not a str"]),
    (b"task: [emulator", ["is not valid YAML", "line 1"]),
    (
        b"task: emulator\ngrid: {shape: [8]}\ntask: inverse\n",
        ["task: given twice (line 3)", "keep one"],
    ),
    (b"task: emulator\ngrid:\n  shape: [8]\n  shape: [9]\n", ["shape: given twice (line 4)"]),
    (b"? [1, 2]\n: 3\n", ["[1, 2]: a key must be a word (line 1)"]),
    (b"task: !!python/object/apply:os.system ['true']\n", ["is not valid YAML", "python/object"]),
    (b"\xff\xfe\x00\x01", ["is not a text file"]),
    (b"task: emulator\nseed: 2024-13-45\n", ["is not valid YAML"]),
    (b"[" * 10_000, ["is not valid YAML"]),
    (b"1: 2\ntask: emulator\n", ["1:"]),
]


def one_message(call, *parts):
    with pytest.raises(ConfigError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "parts"), OVERRIDES, ids=lambda case: case[:20] if isinstance(case, str) else ""
)
def test_overrides(override, parts, tmp_path):
    path = tiny.write(tmp_path / "c.yaml", tiny.emulator(tmp_path))
    one_message(lambda: load_config(path, [override]), *parts)


@pytest.mark.parametrize(
    ("content", "parts"), FILES, ids=lambda case: repr(case[:20]) if isinstance(case, bytes) else ""
)
def test_files(content, parts, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    one_message(lambda: load_config(path), f"{path}: ", *parts)


def test_missing_files(tmp_path):
    (tmp_path / "heat_1d.yaml").touch()
    one_message(
        lambda: load_config(tmp_path / "heat1d.yaml"),
        "no such config file; did you mean 'heat_1d.yaml'?",
    )
    one_message(lambda: load_config(tmp_path / "nowhere" / "a.yaml"), "no such config file")
    one_message(lambda: load_config(tmp_path), "is a folder; give the YAML file")
    one_message(
        lambda: load_config(tmp_path / "heat_1d.yaml" / "a.yaml"), "cannot be read: Not a directory"
    )


def test_yaml_is_not_executed(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.dump({"task": "emulator", "name": tmp_path}))
    one_message(lambda: load_config(path), "is not valid YAML")
