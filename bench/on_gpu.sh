#!/bin/bash
# Everything that only a machine with a GPU can show, in one go and without a network: build, tests, a run, figures,
# sanitizers, profile. Each step has its own limit and log; logs and results are packed anew after each.
#
#   bench/on_gpu.sh [STEP...]      build info tests run rates sanitize profile; all by default
#   OUT=FOLDER                     where gpu.tgz goes (default: gpu-logs in the repository, which git ignores)
#   KIT=FOLDER                     what the machine lacks: wheels (*.whl), Debian packages with FFTW (libfftw3*.deb)
#   PYTHON=python3; CASES=B,A,K3 of bench/cases.py; ARCH=90, the compute capability (default: this GPU's)
#
# It needs nvcc 12 or newer, CMake, ninja, and a Python (3.11 or newer) with cryobox's requirements, pytest and
# hypothesis; PyTorch, CuPy and JAX are used where they are. Beside OUT and $TMP it writes results to bench/results.
# Exit code 1 if a step failed.
set -u
cd "$(dirname "$0")/.." || exit
root=$PWD
python=${PYTHON:-python3}
out=${OUT:-$root/gpu-logs}
tmp=${TMP:-/tmp}/cryobox-gpu
logs=$tmp/logs
site=$tmp/site
mkdir -p "$out" "$logs" "$site" || exit
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 XLA_PYTHON_CLIENT_PREALLOCATE=false

failed=()
say() { echo "== $(date +%T) $*"; }

# limited SECONDS LOG COMMAND...: the command's end is shown, all of it is in the log
limited() {
    local seconds=$1 log=$logs/$2.log code
    shift 2
    timeout "$seconds" "$@" >"$log" 2>&1
    code=$?
    tail -"${SHOW:-12}" "$log" | cut -c1-300
    echo "exit code $code"
    [ $code -eq 0 ] || failed+=("$(basename "$log" .log)")
    return $code
}

find_tools() {
    local nvcc
    nvcc=$(command -v nvcc || ls -d /usr/local/cuda*/bin/nvcc 2>/dev/null | head -1)
    [ -n "$nvcc" ] || { echo "no nvcc: put it on the PATH"; exit 1; }
    cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    export CUDACXX=$cuda/bin/nvcc PATH=$site/bin:$PATH:$cuda/bin PYTHONPATH=$site
    # What is built here, not an editable installation of the environment, whose finder would be asked first.
    cat >"$site/sitecustomize.py" <<'END'
import sys
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != "ScikitBuildRedirectingFinder"]
END
    # FFTW of the kit, and cuFFT of NVIDIA's wheel where the toolkit comes without.
    fftw=$(ls -d "$tmp"/fftw/usr/lib/*/libfftw3f.so 2>/dev/null | head -1)
    [ -z "$fftw" ] || export LD_LIBRARY_PATH=$(dirname "$fftw")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    if ! ls "$cuda"/{lib64,lib,targets/*/lib}/libcufft.so* >/dev/null 2>&1; then
        CuFFT_ROOT=$("$python" -c 'import pathlib, sysconfig
for root in sorted(pathlib.Path(sysconfig.get_paths()["purelib"], "nvidia").glob("cu*")):
    if list(root.glob("lib/libcufft.so*")): print(root); break')
        export CuFFT_ROOT
    fi
    # Results of whole runs belong in memory; 20 GB of it, or on the disk.
    ram=/dev/shm
    [ "$(df --output=avail -BG $ram 2>/dev/null | tail -1 | tr -dc 0-9)" -ge 20 ] || ram=$tmp
}

build() {
    say build
    local package config=() arch
    arch=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -dc 0-9)}
    arch=${arch:-90}
    for package in ${KIT:+"$KIT"/*.deb}; do
        [ -e "$package" ] && dpkg -x "$package" "$tmp/fftw"
    done
    if [ -n "${KIT:-}" ] && ls "$KIT"/*.whl >/dev/null 2>&1; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
            "$KIT"/*.whl || return 1
    fi
    find_tools
    [ -z "$fftw" ] || config+=("--config-settings=cmake.define.FFTW3f_INCLUDE_DIR=$tmp/fftw/usr/include" \
        "--config-settings=cmake.define.FFTW3f_LIBRARY=$fftw")
    [ -z "${CuFFT_ROOT:-}" ] || config+=("--config-settings=cmake.define.CuFFT_ROOT=$CuFFT_ROOT")
    # -lineinfo, so that sanitizers and profiler name lines.
    SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CRYOBOX=${VERSION:-0.0+gpu} limited 200 build \
        "$python" -m pip install -v --no-index --no-deps --no-build-isolation --no-cache-dir --upgrade --target "$site" . \
        --config-settings=cmake.define.CRYOBOX_CUDA=ON --config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES="$arch" \
        --config-settings=cmake.define.CMAKE_CUDA_FLAGS=-lineinfo --config-settings=build-dir="$tmp/build" "${config[@]}"
}

info() {
    say info
    nvidia-smi --query-gpu=name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max --format=csv,noheader
    lscpu | grep -E '^(Model name|CPU\(s\)|L3)'
    free -g | sed -n 2p
    df -h "$ram" "$tmp" | tail -2
    SHOW=20 limited 60 info "$python" -m cryobox info --devices
    "$python" -m cryobox --version --verbose
    limited 60 device "$python" -c 'import sys, cryobox
from cryobox.gpu import survey
found, why = survey()
if not cryobox.__file__.startswith(sys.argv[1]): sys.exit(f"{cryobox.__file__} is not what was built into {sys.argv[1]}")
if not found or found[0].problem: sys.exit("no GPU can be used: " + (found[0].problem if found else why))' "$site" ||
        finish # the rest would be skipped, and look well
}

tests() {
    say tests
    SHOW=40 limited "${TESTS_SECONDS:-180}" tests \
        "$python" -m pytest -q -W default -p no:cacheprovider -m gpu --durations 12 tests/core tests/gpu
}

run() {
    say run
    local folder=$tmp/run
    rm -rf "$folder"
    SHOW=3 limited 60 run-demo "$python" -m cryobox demo "$folder" || return
    SHOW=12 limited 60 run-extract "$python" -m cryobox extract "$folder/picks.star" -m "$folder/micrographs.star" \
        --root "$folder" -o "$folder/gpu" --box 160 --fcrop 128 --small 64 --gpus 1 || return
    SHOW=6 limited 60 run-verify "$python" -m cryobox verify --all "$folder/gpu"
}

rates() {
    local case runs
    mkdir -p "$ram/cryobox-out"
    for case in $(echo "${CASES:-B,A,K3}" | tr , ' '); do
        say "rates of case $case"
        runs=() # whole ones of one case alone
        [ "$case" != "${RUNS_OF:-B}" ] ||
            runs=(--out "$ram/cryobox-out" --micrographs "${MICROGRAPHS:-384}" --files "${FILES:-96}")
        SHOW=34 limited "${RATES_SECONDS:-150}" "rates-$case" "$python" -m bench.gpu --data "$tmp/data" \
            --case "$case" --rounds "${ROUNDS:-4}" --callers "${CALLERS:-1,2,4,8}" "${runs[@]}"
        find bench/results -name 'gpu-*.json' -newer "$logs/started" -exec cp {} "$logs/" \;
    done
    rm -rf "$ram/cryobox-out"
}

sanitize() {
    local tool sanitizer only
    sanitizer=$(command -v compute-sanitizer || ls "$cuda"/bin/compute-sanitizer 2>/dev/null)
    # A few tests, since each kernel is some hundred times slower; and our kernels alone, but where it counts who has
    # written what they read.
    for tool in memcheck racecheck initcheck synccheck; do
        say "$tool"
        only=(--kernel-regex kns=run_pass)
        [ $tool != initcheck ] || only=()
        SHOW=4 limited "${SANITIZE_SECONDS:-60}" "$tool" "$sanitizer" --tool "$tool" "${only[@]}" \
            --error-exitcode 9 "$python" -m pytest -q -x -W default -p no:cacheprovider -m gpu \
            -k "every_pixel_type or every_combination or two_pixels or not_finite or float16_is or beyond_float16" \
            tests/core/test_against_reference.py
    done
}

profile() {
    local case
    for case in $(echo "${PROFILE_CASES:-B}" | tr , ' '); do
        say "profile of case $case"
        # Of the third call: the first two have made plans and buffers.
        timeout 90 ncu --clock-control none --csv --print-units base --launch-skip "${SKIP:-60}" --launch-count 60 \
            --metrics "$("$python" -m bench.gpu_passes metrics)" \
            "$python" -m bench.gpu_passes call --case "$case" >"$logs/profile-$case.csv" 2>"$logs/profile-$case.log"
        if grep -q '^"' "$logs/profile-$case.csv"; then
            "$python" -m bench.gpu_passes table "$logs/profile-$case.csv"
        else
            tail -5 "$logs/profile-$case.csv" "$logs/profile-$case.log"
            failed+=("profile-$case")
        fi
    done
}

finish() {
    tar czf "$out/gpu.tgz" -C "$tmp" logs
    [ ${#failed[@]} -eq 0 ] || { say "failed: ${failed[*]}"; exit 1; }
    say done
    exit 0
}

touch "$logs/started"
for step in ${*:-build info tests run rates sanitize profile}; do
    case $step in
    build) build || finish ;;
    info | tests | run | rates | sanitize | profile)
        [ -n "${cuda:-}" ] || find_tools
        "$step"
        ;;
    *) echo "there is no step $step"; failed+=("$step") ;;
    esac
    tar czf "$out/gpu.tgz" -C "$tmp" logs
done
finish
