"""The commands of `prdp-hpc`, one a file."""
