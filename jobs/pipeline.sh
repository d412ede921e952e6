#!/bin/bash
# Generate trajectories, train on them, then compare PRDP with full refinement: three jobs, each of which starts when the
# previous one has succeeded. Run this script on a login node: jobs/pipeline.sh configs/heat_2d.yaml
# Change: the nodes, ranks and times of the three jobs, and add --partition and --account of your site to `options`.
set -euo pipefail
cd "$(dirname "$0")/.."

config=${1:-configs/heat_2d.yaml}
options=(--parsable --kill-on-invalid-dep=yes)

generate=$(sbatch "${options[@]}" --job-name=generate --time=00:30:00 jobs/cpu_one_node.sh generate "$config")
train=$(sbatch "${options[@]}" --job-name=train --dependency="afterok:$generate" \
    jobs/cpu_nodes.sh run "$config" parallel.grid_ranks=16 --resume)
compare=$(sbatch "${options[@]}" --job-name=compare --time=12:00:00 --dependency="afterok:$train" \
    jobs/cpu_nodes.sh compare "$config" parallel.grid_ranks=16 --resume)
echo "generate: job $generate; train: job $train; compare: job $compare"
