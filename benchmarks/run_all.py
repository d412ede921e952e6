"""All benchmarks, one after the other.

python benchmarks/run_all.py [--quick]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "overhead.py",
    "gamg_options.py",
    "lag_and_guess.py",
    "against_torch_sla.py",
    "against_torch_fem.py",
    "gradients_transport.py",
    "scaling.py",
    "streaming.py",
)


def main() -> None:
    """Run each benchmark in a separate process; stop at the first failure."""
    for name in BENCHMARKS:
        print(f"\n== {name}\n", flush=True)
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name(name)), *sys.argv[1:]], check=True
        )


if __name__ == "__main__":
    main()
