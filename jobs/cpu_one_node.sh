#!/bin/bash
# Train on one node: 4 replicas of the network, each with the whole grid.
#   sbatch jobs/cpu_one_node.sh
#   sbatch jobs/cpu_one_node.sh compare configs/heat_1d.yaml --resume
# Change: the ranks (--ntasks-per-node), the cores of each (--cpus-per-task), the time, the partition and the account of your
# site, and the command below. Replicas are the ranks divided by parallel.grid_ranks.
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

# What each process needs: this clone's environment; or your site's: module load ...
PATH=$PWD/.venv/bin:$PATH
# How ranks start. Another MPI may want --mpi=pmix ("srun --mpi=list" tells what there is), or all of it be: launch=(mpirun)
launch=(srun --mpi=pmi2 --kill-on-bad-exit=0 --wait=20)
[ $# -gt 0 ] || set -- run configs/heat_1d.yaml --resume

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
