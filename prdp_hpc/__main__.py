"""`python -m prdp_hpc`, and so `torchrun -m prdp_hpc`: the same as `prdp-hpc`."""

from prdp_hpc.cli import main

main()
