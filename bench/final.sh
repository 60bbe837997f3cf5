#!/bin/sh
# Everything that docs/performance.md reports, in one go, on an otherwise idle machine: about 25 minutes on 2 cores.
#
#   bench/final.sh [FOLDER]        FOLDER holds the data sets (12 GB with the outputs) and is reused; default bench/data
#   PYTHON=.venv/bin/python ROUNDS=2 MICROGRAPHS=12 bench/final.sh        a quicker look
#
# Results go to bench/results as JSON; the last step writes the tables into docs/performance.md.
set -eu
cd "$(dirname "$0")/.."
data=${1:-bench/data}
python=${PYTHON:-python}
rounds=${ROUNDS:-4}
micrographs=${MICROGRAPHS:-48}
# The programs beside this Python: `cryobox`, and what the builds of the floors need.
PATH=$(dirname "$(command -v "$python")"):$PATH
export PATH

run() {
    echo "== $*"
    "$python" -m "$@"
}

run bench.endtoend --data "$data" --micrographs "$micrographs" --rounds "$rounds" --cases A,B,B16,B64 \
    --arms "cryobox,copy floor,fft floor,numpy,numpy pruned,relion,relion mpi" --lean B16,B64 --verbose
run bench.endtoend --data "$data" --micrographs 12 --rounds "$rounds" --cases K3,small,counts,sparse \
    --lean K3,small,counts,sparse --label endtoend_more
run bench.endtoend --data "$data" --rounds "$rounds" --cases memory --label endtoend_memory \
    --arms "cryobox,fft floor,numpy,numpy pruned"
run bench.tables --data "$data" --rounds 2
run bench.syscalls --data "$data" --case B
run bench.stages --data "$data" --case B
run bench.growth --data "$data"
run bench.report
