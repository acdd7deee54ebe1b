#!/usr/bin/env bash
# Train on real images, end to end: set up, build HDF5 shards from the Fashion-MNIST images in this repository, train on
# two MPI ranks. Arguments go to the training command, for example: bash launch/demo.sh --epochs 2
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
source launch/env.sh

owt_environment cpu,mpich
shards=shards/fashion_mnist
python -m data_prep.build_shards data_prep/fashion_mnist/train.tar.gz "$shards" \
    --val data_prep/fashion_mnist/test.tar.gz --size 28 --channels 1
if [ -t 1 ]; then progress=bar; else progress=lines; fi # mpirun hides the terminal from the ranks
mpirun -n 2 python -m owt_mpi.train --preset demo --data "$shards" --progress "$progress" "$@"
