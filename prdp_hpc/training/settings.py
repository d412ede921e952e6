"""The settings of a run in its checkpoints: compared when the run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.files import to_json

CONTENT, FILE = "data.content", "data.file"
"""Settings with the content id of the data and with their path."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, from another program or of other settings. The message
    contains the file and what to do.
    """


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested settings: `{"training": {"epochs": 3}}` becomes `{"training.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": item for inner, item in flat_settings(value).items()}
        else:
            flat[str(key)] = value
    return flat


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Settings as one line of text, independent of their order."""
    return to_json(dict(sorted(flat_settings(settings).items())))


def check_fit(
    saved: Mapping[str, Any], now: Mapping[str, Any], added: Mapping[str, Any] | None = None
) -> None:
    """Compare two flat dicts of settings; raise `CheckpointError` with all keys that differ.

    `added`: settings that older checkpoints do not have, with the values that they had.

    If both have the content id of the data, the file may have been moved. Checkpoints of version
    0.1 do not have it, so for them the path must be the same.
    """
    ignored = FILE if CONTENT in saved and CONTENT in now else CONTENT
    saved = _completed(saved, now, added or {})
    differing = [
        key
        for key in sorted({*saved, *now} - {ignored})
        if key not in saved or key not in now or saved[key] != now[key]
    ]
    if differing:
        shown = "; ".join(
            f"{key}: {_shown(saved, key)} in the checkpoint, {_shown(now, key)} now"
            for key in differing
        )
        raise CheckpointError(
            f"was saved with other settings ({shown}); restore them, or start a run with another "
            "name"
        )


def _completed(
    saved: Mapping[str, Any], now: Mapping[str, Any], added: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a checkpoint, with those of `added` that it lacks and that exist now."""
    return {
        **{k: v for k, v in added.items() if _contains(now, k) and not _contains(saved, k)},
        **saved,
    }


def _contains(settings: Mapping[str, Any], key: str) -> bool:
    """Whether flat settings have a key, or keys below it."""
    return any(other == key or other.startswith(f"{key}.") for other in settings)


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "absent"
