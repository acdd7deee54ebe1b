"""What `python -m owt_mpi.bench` measures, and how it is told."""
