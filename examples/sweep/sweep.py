"""Search for the learning rate and the width of a network with Optuna, see README.md."""

import argparse
import json
from contextlib import suppress
from pathlib import Path

import optuna
from mpi4py import MPI
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from prdp_hpc import SolveError, train

CONFIG = Path(__file__).with_name("config.yaml")
RUNGS = (2, 4, 8)  # epochs after which a trial may be pruned
HEARTBEAT = 60  # seconds; a process without one for twice as long is considered killed
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
WORLD = MPI.COMM_WORLD


def objective(trial, folder):
    """Train one trial, and give it up if other trials were better after as many epochs."""
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    width = trial.suggest_categorical("width", [8, 16, 32])
    # The run has the name of its parameters: tried again, it continues from its checkpoint.
    name = f"rate-{rate!r}-width-{width}"
    changes = [f"training.learning_rate={rate!r}", f"network.hidden=[{width}, {width}]"]
    for epochs in RUNGS:
        if epochs not in errors_of(folder / name):
            here = [f"training.epochs={epochs}", f"output={folder}", f"name={name}"]
            train(CONFIG, WORLD.bcast([*changes, *here]), resume=True)
        error = errors_of(folder / name)[epochs]
        trial.report(error, epochs)
        if trial.should_prune():
            raise optuna.TrialPruned
    return error


def errors_of(run):
    """The validation errors of a run by epoch."""
    with suppress(FileNotFoundError):
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return {row["epoch"]: row["error"] for row in rows}
    return {}


def sweep(folder, trials, storage):
    """Let Optuna choose trials, which rank 0 broadcasts, until enough have ended."""
    database = optuna.storages.RDBStorage(
        storage,
        heartbeat_interval=HEARTBEAT,
        heartbeat_stale_trial_callback=lambda study, trial: study.enqueue_trial(trial.params),
    )
    study = optuna.create_study(study_name="sweep", storage=database, load_if_exists=True)
    if len(study.get_trials(states=ENDED)) < trials:
        enough = MaxTrialsCallback(trials, states=ENDED)
        study.optimize(lambda trial: objective(trial, folder), callbacks=[enough], catch=SolveError)
    print(f"best error {study.best_value:.3e} with {study.best_params}")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--trials", type=int, default=12, help="trials of all processes together")
    parser.add_argument("--storage", help="URL of a database (default: a file in the folder)")
    given = parser.parse_args(words)
    given.folder.mkdir(parents=True, exist_ok=True)
    if WORLD.rank == 0:
        storage = given.storage or f"sqlite:///{given.folder}/study.db"
        sweep(given.folder, given.trials, storage)
        WORLD.bcast(None)
    else:
        while (changes := WORLD.bcast(None)) is not None:
            with suppress(SolveError):
                train(CONFIG, changes, resume=True)


if __name__ == "__main__":
    main()
