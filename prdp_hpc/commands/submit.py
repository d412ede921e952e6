"""`prdp-hpc submit`: submit a SLURM job for a config. This module does not load MPI, which may be
unusable on login nodes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prdp_hpc.commands.job_script import JobScript, freeze
from prdp_hpc.commands.sbatch import SubmitError, sbatch
from prdp_hpc.commands.submit_options import sbatch_options
from prdp_hpc.config import ExperimentConfig, SupervisedConfig, load_config
from prdp_hpc.config.site import Site, load_site, site_path
from prdp_hpc.config.variants import variants
from prdp_hpc.console import show
from prdp_hpc.files import file_errors

FOLDER = "slurm"
"""Folder of the scripts, frozen configs and logs, in the folder `output` of the config."""
JOBS = "jobs.jsonl"
"""File in that folder with one line per submitted job."""
_IMAGE_FILES = (".sif", ".simg", ".img", ".sqsh")


@dataclass(frozen=True)
class _Job:
    """One job: its name, the arguments of `prdp-hpc` and its run folder.

    `each`: arguments that differ between the tasks of an array, as shell text; `array`: the tasks;
    `after`: whether it starts when the job before it has ended.
    """

    name: str
    words: Sequence[str]
    last: Sequence[str]
    results: Path | None
    each: Sequence[str] = ()
    array: str | None = None
    after: bool = False


def submit(arguments: argparse.Namespace) -> None:
    """Freeze the config and write the batch script into `<output>/slurm`, print the script, and
    pass it to sbatch unless `--dry-run` is given.

    Raises
    ------
    ConfigError
        For an invalid config or site file, before anything is written.
    SubmitError
        If the ranks do not fit the nodes or the task, or with sbatch's message if it rejects the
        job.
    InputError
        If the script was edited.
    """
    site = load_site()
    overrides = list(arguments.overrides)
    if arguments.grid_ranks:
        overrides.append(f"parallel.grid_ranks={arguments.grid_ranks}")
    config = load_config(arguments.config, overrides)
    _check_task(arguments, config)
    _check_container(arguments.container, site)
    ranks = _checked_ranks(arguments, config)
    folder = (Path(config.output) / FOLDER).absolute()
    if arguments.fan_out is not None:
        arguments.task = "compare"
    frozen = freeze(config.to_yaml(), folder, _name(arguments, config))
    jobs = _jobs(arguments, config, frozen)
    scripts = [_script(arguments, job, site, folder, ranks) for job in jobs]
    for script in scripts:
        show(script.write(arguments.overwrite_script))
    if arguments.dry_run:
        show(_commands(jobs, scripts, arguments.dependency))
    else:
        _submit_all(jobs, scripts, folder, arguments.dependency)


def _name(arguments: argparse.Namespace, config: ExperimentConfig) -> str:
    return config.name if arguments.task == "run" else f"{config.name}-{arguments.task}"


def _check_task(arguments: argparse.Namespace, config: ExperimentConfig) -> None:
    """Raise `SubmitError` if the command cannot be divided into jobs as asked."""
    if arguments.fan_out is not None and arguments.array is not None:
        raise SubmitError(
            "--array: --fan-out makes an array of all runs of the comparison; give one of the two"
        )
    if arguments.task != "generate":
        return
    if arguments.fan_out is not None:
        raise SubmitError("--fan-out: the jobs are the runs of a comparison, so leave out generate")
    if arguments.array is not None:
        raise SubmitError("--array: all jobs would generate the same data; leave it out")
    if not isinstance(config, SupervisedConfig):
        raise SubmitError(
            f"{arguments.config}: an inverse problem is not trained on trajectories, so there "
            "is nothing to generate"
        )
    if config.data.file is not None:
        raise SubmitError(f"data.file: runs read {config.data.file!r}; leave it out to generate")


def _check_container(image: str | None, site: Site) -> None:
    """Raise `SubmitError` if the ranks cannot start in this image."""
    if image is None:
        return
    # The name of an image in a registry may also contain slashes, but has none of these endings.
    if "://" not in image and image.endswith(_IMAGE_FILES) and not Path(image).exists():
        raise SubmitError(f"--container {image}: no such file; give the path of the image")
    if site.container_runtime == "pyxis" and not site.starts_by_srun:
        raise SubmitError(
            f"--container: pyxis is a part of srun, but the launcher is {site.launcher!r}; in "
            f"{site_path()} change launcher to srun, or container_runtime"
        )


def _checked_ranks(arguments: argparse.Namespace, config: ExperimentConfig) -> int:
    """Return the number of ranks; raise `SubmitError` if they do not fit the nodes or the task."""
    replicas, nodes = arguments.replicas, arguments.nodes
    grid_ranks = config.parallel.grid_ranks or 1
    if replicas > 1 and not config.divides_samples:
        raise SubmitError(
            f"--replicas {replicas}: an inverse problem has no samples to divide; give "
            "--grid-ranks instead"
        )
    ranks: int = replicas * grid_ranks
    if ranks % nodes:
        fitting = [n for n in range(1, ranks + 1) if ranks % n == 0]
        raise SubmitError(
            f"--nodes {nodes}: {replicas} replica(s) × {grid_ranks} grid rank(s) are {ranks} "
            "ranks, which do not divide evenly "
            f"over {nodes} nodes; --nodes may be one of {fitting}"
        )
    return ranks


def _jobs(arguments: argparse.Namespace, config: ExperimentConfig, frozen: Path) -> list[_Job]:
    """The jobs of a submission, in the order in which they are submitted."""
    name, words = _name(arguments, config), [arguments.task, str(frozen)]
    results, resume = Path(config.output) / name, ["--resume"]
    if arguments.task == "generate":
        return [_Job(name, words, [], None)]
    if arguments.fan_out is not None:
        last = len(variants(config)) * len(config.seeds) - 1
        array = f"0-{last}" + (f"%{arguments.fan_out}" if arguments.fan_out else "")
        each = ['--only="$SLURM_ARRAY_TASK_ID"']
        return [
            _Job(name, words, resume, results, each, array),
            _Job(f"{name}-collect", words, resume, results, after=True),
        ]
    if arguments.array is not None and arguments.task == "run":
        task = '"$SLURM_ARRAY_TASK_ID"'
        each = [f"seed={task}", f"name={shlex.quote(f'{name}-seed-')}{task}"]
        results = Path(config.output) / f"{name}-seed-…"
        return [_Job(f"{name}-seeds", words, resume, results, each, arguments.array)]
    return [_Job(name, words, resume, results, array=arguments.array)]


def _script(
    arguments: argparse.Namespace, job: _Job, site: Site, folder: Path, ranks: int
) -> JobScript:
    # %j, %A and %a are ids of the job; a percent sign in the path must be written twice. The log is
    # beside the script, since SLURM does not create the folder of a log.
    number = "%j" if job.array is None else "%A_%a"
    set_here = {
        "job-name": job.name,
        "nodes": str(arguments.nodes),
        "ntasks-per-node": str(ranks // arguments.nodes),
        "output": str(folder / job.name).replace("%", "%%") + f"-{number}.log",
        # Relative paths of the config, e.g. data.file, start here.
        "chdir": str(Path.cwd()),
    }
    options = sbatch_options(arguments, site.defaults, set_here)
    options.pop("array", None)
    if job.array is not None:
        options["array"] = job.array
    if job.after:
        options.pop("dependency", None)
    image = arguments.container
    return JobScript(
        folder / f"{job.name}.sh",
        arguments.line,
        options,
        site,
        job.words,
        job.each,
        job.last,
        str(Path(image).absolute()) if image is not None and Path(image).exists() else image,
        [Path.cwd(), *([] if folder.is_relative_to(Path.cwd()) else [folder.parent])],
    )


def _commands(jobs: Sequence[_Job], scripts: Sequence[JobScript], given: str | None) -> str:
    """The commands that submit the scripts by hand."""
    lines = []
    for job, script in zip(jobs, scripts, strict=True):
        path = shlex.quote(str(script.path))
        if len(jobs) > 1 and not job.after:
            lines.append(f"first=$(sbatch --parsable {path})")
        else:
            after = f"sbatch {_dependency('$first', given)[0]} {path}"
            lines.append(after if job.after else path)
    if len(lines) == 1:
        return f"not submitted; to submit it: sbatch {lines[0]}"
    return "not submitted; to submit it:\n" + "\n".join(lines)


def _submit_all(
    jobs: Sequence[_Job], scripts: Sequence[JobScript], folder: Path, given: str | None
) -> None:
    number, lines = "", []
    for job, script in zip(jobs, scripts, strict=True):
        try:
            number = sbatch(script.path, _dependency(number, given) if job.after else [])
        except SubmitError as error:
            first = f"; job {number} was submitted before: scancel {number} removes it"
            raise SubmitError(f"{error}{first if number else ''}") from None
        _record(folder, number, job)
        suffix = number if job.array is None else f"{number}_…"
        lines.append(f"job:        {number}")
        lines.append(f"log:        {script.path.with_name(f'{job.name}-{suffix}.log')}")
    results = jobs[-1].results
    if results is not None:
        exists = " (exists: the job continues it)" if results.exists() else ""
        lines.append(f"run folder: {results}{exists}")
    show("\n".join(lines))


def _dependency(number: str, given: str | None) -> list[str]:
    """The option for a job that starts after job `number`, and after the user's own dependency."""
    # After any end: the last job also finishes runs whose own job has failed. Where the jobs before
    # never start, it must not start either; SLURM cannot combine "?", one of several, with others.
    own = "" if given is None or "?" in given else f"{given},"
    return [f"--dependency={own}afterany:{number}"]


def _record(folder: Path, number: str, job: _Job) -> None:
    """Append a submitted job to the list that `prdp-hpc status` reads."""
    line = {
        "job": number,
        "name": job.name,
        "results": None if job.results is None else str(job.results),
        "submitted": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
    path = folder / JOBS
    with file_errors(path, "cannot be written"), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
