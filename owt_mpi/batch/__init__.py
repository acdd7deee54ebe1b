"""Batch scripts for SLURM, written for a cluster and a training from the texts that are in launch/."""
