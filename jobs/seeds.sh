#!/bin/bash
# Train with several seeds at the same time: a job array with one job and one run folder per seed.
#   prdp-hpc generate configs/heat_1d.yaml      # once before, so that the jobs do not all generate the same data
#   sbatch jobs/seeds.sh
# Change: the seeds (--array=1-20%4: twenty, four at a time), the nodes and ranks per job, the time, partition and account of
# your site, and the command below.
#SBATCH --job-name=seeds
#SBATCH --array=1-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
##SBATCH --partition=...
##SBATCH --account=...
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

# Environment of each process: that of this clone, or the modules of your site: module load ...
PATH=$PWD/.venv/bin:$PATH
# The launcher. Other MPI libraries may need --mpi=pmix ("srun --mpi=list" lists the choices) or another one: launch=(mpirun)
launch=(srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=20)
set -- run configs/heat_1d.yaml seed="$SLURM_ARRAY_TASK_ID" name="heat_1d-seed-$SLURM_ARRAY_TASK_ID" --resume

# The rest is the same in every job: in a copy of this script elsewhere, give the full path of this file.
# shellcheck source=prdp_hpc/commands/job_common.sh
. prdp_hpc/commands/job_common.sh
