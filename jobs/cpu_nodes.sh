#!/bin/bash
# Train on many nodes: 2 replicas of the network, whose 16 grid ranks share one grid on a node of its own.
#   sbatch jobs/cpu_nodes.sh
#   sbatch --nodes=8 jobs/cpu_nodes.sh run configs/heat_2d.yaml parallel.grid_ranks=16 --resume
# Change: the nodes, the ranks on each (--ntasks-per-node), parallel.grid_ranks in the command below (it must divide all ranks;
# up to the ranks of a node, a grid stays within one), the time, the partition and the account of your site.
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

# What each process needs: this clone's environment; or your site's: module load ...
PATH=$PWD/.venv/bin:$PATH
# How ranks start. Another MPI may want --mpi=pmix ("srun --mpi=list" tells what there is), or all of it be: launch=(mpirun)
launch=(srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=20)
[ $# -gt 0 ] || set -- run configs/heat_2d.yaml parallel.grid_ranks=16 --resume

# ---- From here on the same in every job script.
# SLURM tells this shell before the end. It tells the ranks, which save after their step and leave with code 85; then the job
# queues itself again and --resume continues to the same numbers. It also does when it was preempted before there was anything
# to save, or has lost a node. Any other end is the end.
set -u
told='' ranks=''
trap 'told=yes; [ -z "$ranks" ] || kill -USR1 "$ranks" 2> /dev/null' USR1 TERM
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_TASK_ID-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" PYTHONUNBUFFERED=1
echo "job $job, restart ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST: prdp-hpc $*"

# What cannot listen yet must not end by the signal, so launcher and ranks begin deaf to it; hence it is told until they leave.
(trap '' USR1 && exec "${launch[@]}" bash -c 'trap "" USR1 && exec prdp-hpc "$@"' rank "$@") &
ranks=$!
while kill -0 "$ranks" 2> /dev/null; do
    if [ -z "$told" ]; then wait "$ranks"; else sleep 1 && kill -USR1 "$ranks" 2> /dev/null; fi # a signal ends wait early
done
wait "$ranks"
code=$?

preempted() { scontrol show job "$job" | grep -q 'PreemptTime=[0-9]'; }
all_nodes_answer() {
    SLURM_OVERLAP=1 timeout 60 srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --mpi=none true
}
if [ "$code" = 85 ]; then
    why="stopped early with everything saved"
elif [ "$code" = 138 ]; then # ended by SIGUSR1 itself, in the moment before a rank was deaf to it
    why="told to stop before it could listen"
elif [ "$code" != 0 ] && preempted; then
    why="preempted before there was anything to save"
elif [ "$code" != 0 ] && ! all_nodes_answer; then
    why="a node does not answer"
else
    echo "job $job: ended with code $code"
    exit "$code"
fi
# A cancelled job must not come back, and a preempted one may be in the queue again already.
case $(squeue --noheader --jobs="$job" --format=%T/%r) in
    RUNNING/* | COMPLETING/TimeLimit) echo "job $job: $why, queued again" && scontrol requeue "$job" ;;
    *) echo "job $job: $why" ;;
esac
exit "$code"
