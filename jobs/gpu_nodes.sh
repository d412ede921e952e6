#!/bin/bash
# Train on many nodes with GPUs: one rank per GPU, 2 replicas with 4 grid ranks each.
#   sbatch jobs/gpu_nodes.sh
# Change: the nodes; --ntasks-per-node and --gpus-per-node together (ranks that share a GPU use all-reduces on the host),
# --cpus-per-task to the cores per GPU of a node, parallel.grid_ranks in the command below, and the time, partition and account
# of your site. Some sites require the type of GPU: --gpus-per-node=a100:4.
#SBATCH --job-name=gpu_nodes
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
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
[ $# -gt 0 ] || set -- run configs/heat_2d.yaml parallel.grid_ranks=4 --resume

# The rest is the same in every job: in a copy of this script elsewhere, give the full path of this file.
# shellcheck source=prdp_hpc/commands/job_common.sh
. prdp_hpc/commands/job_common.sh
