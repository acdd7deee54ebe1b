"""What `python -m owt_mpi.prove` compares: ranks that share a network, and a serial program that trains the same."""
