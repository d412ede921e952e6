#!/bin/bash
# Train on one node: 4 replicas of the network, each with the whole grid.
#   sbatch jobs/cpu_one_node.sh
#   sbatch jobs/cpu_one_node.sh compare configs/heat_1d.yaml --resume
# Change: the ranks (--ntasks-per-node), the cores per rank (--cpus-per-task), the time, partition and account of your site, and
# the command below. The number of replicas is the number of ranks divided by parallel.grid_ranks.
#SBATCH --job-name=cpu_one_node
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
##SBATCH --partition=...
##SBATCH --account=...
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

# Environment of each process: that of this clone, or the modules of your site: module load ...
PATH=$PWD/.venv/bin:$PATH
# The launcher. Other MPI libraries may need --mpi=pmix ("srun --mpi=list" lists the choices) or another one: launch=(mpirun)
launch=(srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=20)
[ $# -gt 0 ] || set -- run configs/heat_1d.yaml --resume

# The rest is the same in every job: in a copy of this script elsewhere, give the full path of this file.
# shellcheck source=prdp_hpc/commands/job_common.sh
. prdp_hpc/commands/job_common.sh
