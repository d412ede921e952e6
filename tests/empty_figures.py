"""Empty files in place of the figures of `prdp-hpc run` and `compare`: drawing takes six times as
long as the training of a tiny run.
"""

import contextlib
from unittest import mock

from prdp_hpc.commands import compare, run
from prdp_hpc.files import atomic_path

_DRAWN = {
    run: ("plot_run", "plot_fields", "plot_inversion"),
    compare: ("plot_comparison", "plot_variants", "plot_inversion"),
}
_REAL = {
    module: {name: getattr(module, name) for name in names} for module, names in _DRAWN.items()
}


def _write_empty(_, path, *__):
    with atomic_path(path) as temporary:
        temporary.touch()


@contextlib.contextmanager
def empty_figures():
    """A context in which both commands write empty files."""
    with contextlib.ExitStack() as stack:
        for module, names in _DRAWN.items():
            stack.enter_context(mock.patch.multiple(module, **dict.fromkeys(names, _write_empty)))
        yield


@contextlib.contextmanager
def real_figures(*modules):
    """A context in which they draw figures, or one of them does, within that of `empty_figures`."""
    with contextlib.ExitStack() as stack:
        for module in modules or _REAL:
            stack.enter_context(mock.patch.multiple(module, **_REAL[module]))
        yield
