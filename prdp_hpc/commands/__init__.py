"""The commands of `prdp-hpc`, one per file."""
