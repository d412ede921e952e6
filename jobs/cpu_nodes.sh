#!/bin/bash
# Train on many nodes: 2 replicas of the network, each with 16 grid ranks that share one grid on one node.
#   sbatch jobs/cpu_nodes.sh
#   sbatch --nodes=8 jobs/cpu_nodes.sh run configs/heat_2d.yaml parallel.grid_ranks=16 --resume
# Change: the nodes, the ranks per node (--ntasks-per-node), parallel.grid_ranks in the command below (it must divide the number
# of ranks; up to the ranks per node, each grid stays within one node), and the time, partition and account of your site.
#SBATCH --job-name=cpu_nodes
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=16
#SBATCH --cpus-per-task=1
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
[ $# -gt 0 ] || set -- run configs/heat_2d.yaml parallel.grid_ranks=16 --resume

# The rest is the same in every job: in a copy of this script elsewhere, give the full path of this file.
# shellcheck source=prdp_hpc/commands/job_common.sh
. prdp_hpc/commands/job_common.sh
