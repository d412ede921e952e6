"""Write the excerpts that lie beside this file: python excerpts.py ../shared/reference"""

import json
import shutil
import sys
from pathlib import Path

import h5py

HERE = Path(__file__).resolve().parent
SAMPLES = {"heat_1d": (40, 5, 3), "heat_2d": (2, 2, 3), "navier_stokes": (1, 1, 3)}
"""Training and validation trajectories, and states of each."""


def main(whole_folder):
    for name, (train, validation, states) in SAMPLES.items():
        with (
            h5py.File(whole_folder / f"{name}.h5") as whole,
            h5py.File(HERE / f"{name}.h5", "w") as part,
        ):
            part.attrs.update(whole.attrs)
            for group, count in (("train", train), ("validation", validation)):
                key = f"{group}/trajectories"
                part.create_dataset(
                    key, data=whole[key][:count, :states], compression=9, shuffle=True
                )
    results = json.loads((whole_folder / "heat_1d_results.json").read_text())
    results["runs"] = [run for run in results["runs"] if run["mode"] == "prdp"]
    (HERE / "heat_1d_results.json").write_text(json.dumps(results) + "\n")
    shutil.copyfile(whole_folder / "heat_slab.json", HERE / "heat_slab.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
