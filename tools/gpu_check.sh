#!/usr/bin/env bash
# Everything that only a machine with a GPU can show: tests, benchmarks, trainings. At most ten
# minutes, without network; the results are printed and written as JSON.
#
#   tools/gpu_check.sh pack FOLDER        after `make environment CUDA=1`: collect the built wheels
#   tools/gpu_check.sh FOLDER [RESULTS]   on the machine with the GPU: install them and run
#
# The second form needs a python3 with torch, for the same Python version and CUDA as the wheels.
# PARTS (default "tests solves batched training") selects what is run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

pack() {
    local folder=$1 venv=.venv cache=${PRDP_CACHE:-$HOME/.cache/prdp-hpc}
    mkdir -p "$folder"
    for name in petsc4py petsc; do
        # The newest.
        # shellcheck disable=SC2012
        cp "$(ls -t "$cache"/wheels/*/$name-[0-9]*.whl | head -1)" "$folder/"
    done
    [ -e $venv/lib/libprdpblas.so ] && cp $venv/lib/libprdpblas.so "$folder/"
    local wanted
    wanted=$($venv/bin/python -m pip freeze | grep -iE \
        '^(mpich|mpi4py|scipy-openblas32|pydantic|pydantic_core|annotated-types|typing-inspection|mpi-pytest)==')
    # One requirement per word:
    # shellcheck disable=SC2086
    $venv/bin/python -m pip download -q --no-deps -d "$folder" $wanted
    du -sh "$folder"
}

prepare() {
    local wheels=$1 torch
    # A separate environment, which also finds the packages beside the installed torch.
    rm -rf build/gpu
    python3 -m venv build/gpu
    torch=$(python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')
    echo "$torch" >"$(echo build/gpu/lib/python3*/site-packages)/torch.pth"
    build/gpu/bin/python -m pip install -q --no-index --no-deps "$wheels"/*.whl
    [ -e "$wheels/libprdpblas.so" ] && cp "$wheels/libprdpblas.so" build/gpu/lib/
    printf '#!%s\nfrom prdp_hpc.cli import main\nraise SystemExit(main())\n' \
        "$PWD/build/gpu/bin/python" >build/gpu/bin/prdp-hpc
    chmod +x build/gpu/bin/prdp-hpc
    export PATH=$PWD/build/gpu/bin:$PATH PYTHONPATH=$PWD OMP_NUM_THREADS=1
    # What the wheels of PETSc and torch both load lies beside torch.
    LD_LIBRARY_PATH=$(echo "$torch"/nvidia/cu[0-9]*/lib | tr ' ' :):$PWD/build/gpu/lib
    export LD_LIBRARY_PATH
}

part() {
    # A title, a limit in seconds, a command; the outcome goes into the results.
    local title=$1 limit=$2 began=$SECONDS code
    shift 2
    echo "== $title"
    timeout "$limit" "$@" 2>&1 | tee "$results/$title.log"
    code=${PIPESTATUS[0]}
    printf '{"part": "%s", "exit_code": %d, "seconds": %d}\n' \
        "$title" "$code" $((SECONDS - began)) >>"$results/parts.jsonl"
}

training() {
    prdp-hpc compare "configs/$1.yaml" --overwrite output="$results/runs" comparison.seeds=1 \
        comparison.targets={} comparison.constant_levels=[] comparison.baselines={} "${@:2}"
}
export -f training

run() {
    prepare "$1"
    export results=${2:-build/gpu-results}
    rm -rf "$results"
    mkdir -p "$results"
    local parts=" ${PARTS:-tests solves batched training} "
    part doctor 30 prdp-hpc doctor
    if [[ $parts == *" tests "* ]]; then
        part tests 120 python -m pytest -q -p no:cacheprovider -n 8 -k "not ranks" \
            tests/test_gpu.py tests/linalg/test_memories.py tests/linalg/batched tests/physics
    fi
    if [[ $parts == *" solves "* ]]; then
        part solves 180 python benchmarks/gpu.py --unknowns "${UNKNOWNS:-1e6,1e7}"
        cp benchmarks/results/gpu.json "$results/"
    fi
    if [[ $parts == *" batched "* ]]; then
        part batched 60 python benchmarks/batched.py --quick
        cp benchmarks/results/batched.json "$results/"
    fi
    if [[ $parts == *" training "* ]]; then
        part heat_3d 45 bash -c "training heat_3d solver.ksp=batched_richardson"
        part navier_stokes 120 bash -c "training navier_stokes solver.ksp=batched_gmres ${FLOW:-}"
        for name in heat_3d navier_stokes; do
            cp "$results/runs/$name-compare/comparison.json" "$results/$name.json"
        done
    fi
    echo "== results in $results"
    cat "$results/parts.jsonl"
    ! grep -qv '"exit_code": 0,' "$results/parts.jsonl"
}

case ${1:-} in
    "" | -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" ;;
    pack) pack "${2:?usage: tools/gpu_check.sh pack FOLDER}" ;;
    *) run "$@" ;;
esac
