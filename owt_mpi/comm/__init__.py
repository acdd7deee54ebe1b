"""Communicators: serial, K ranks as threads of one process, and MPI."""
