# shellcheck shell=bash disable=SC2154
# The part that all job scripts have in common, to be sourced at their end. The script has set
#   launch   the launcher and its options, e.g. launch=(srun --mpi=pmi2)
#   program  what each rank starts (default: prdp-hpc), e.g. program=(apptainer exec image.sif prdp-hpc)
#   $@       the arguments of prdp-hpc, by "set --".
#
# Before the time limit SLURM sends SIGUSR1 to this shell, which forwards it to the ranks. They finish the current step, write a
# checkpoint and exit with code 85; the job then requeues itself, and --resume continues with the same numbers. The job also
# requeues itself if it was preempted before the first checkpoint, or has lost a node. Any other exit code ends the job.
set -u
[ -n "${program+set}" ] || program=(prdp-hpc)
stopping='' ranks=''
trap 'stopping=yes; [ -z "$ranks" ] || kill -USR1 "$ranks" 2> /dev/null' USR1 TERM
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_TASK_ID-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" PYTHONUNBUFFERED=1
echo "job $job, restart ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST: prdp-hpc $*"

# Start launcher and ranks with SIGUSR1 ignored, because its default action would kill them; resend it until they exit.
(trap '' USR1 && exec "${launch[@]}" bash -c 'trap "" USR1 && exec "$@"' rank "${program[@]}" "$@") &
ranks=$!
while kill -0 "$ranks" 2> /dev/null; do
    if [ -z "$stopping" ]; then wait "$ranks"; else sleep 1 && kill -USR1 "$ranks" 2> /dev/null; fi # signals interrupt wait
done
wait "$ranks"
code=$?

preempted() { scontrol show job "$job" | grep -q 'PreemptTime=[0-9]'; }
all_nodes_respond() {
    SLURM_OVERLAP=1 timeout 60 srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --mpi=none true
}
if [ "$code" = 85 ]; then
    why="stopped early with a checkpoint"
elif [ "$code" = 138 ]; then # killed by SIGUSR1, in the short time before a rank ignores it
    why="stopped by SIGUSR1 during start-up"
elif [ "$code" != 0 ] && preempted; then
    why="preempted before the first checkpoint"
elif [ "$code" != 0 ] && ! all_nodes_respond; then
    why="a node does not respond"
else
    echo "job $job: exited with code $code"
    exit "$code"
fi
# A cancelled job must not be requeued, and SLURM may already have requeued a preempted one.
case $(squeue --noheader --jobs="$job" --format=%T/%r) in
    RUNNING/* | COMPLETING/TimeLimit) echo "job $job: $why, requeued" && scontrol requeue "$job" ;;
    *) echo "job $job: $why" ;;
esac
exit "$code"
