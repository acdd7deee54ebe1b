"""HDF5 files as HDF5 writes them by default, read without its library, which crashes or hangs on some damaged ones."""
