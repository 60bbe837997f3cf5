#!/bin/sh
# Builds FFTW for wheels with the options of Debian's package, so that all builds give the same bits. For cibuildwheel.
# AVX2 and AVX-512 codelets gave other last bits, and were slower with estimated plans.
set -eu

version=3.3.10
sum=56c932549852cddcfafdab3820b0200c7742675be92179e59e6215b340e26467
prefix=${FFTW_PREFIX:-/usr/local}
if [ "$(uname -m)" = x86_64 ]; then simd="--enable-sse2 --enable-avx"; else simd="--enable-neon"; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if [ -n "${FFTW_SOURCE:-}" ]; then
    cp "$FFTW_SOURCE" fftw.tar.gz
else
    curl -fsSL -o fftw.tar.gz "https://www.fftw.org/fftw-$version.tar.gz"
fi
if command -v sha256sum >/dev/null; then
    echo "$sum  fftw.tar.gz" | sha256sum -c - >/dev/null
else
    echo "$sum  fftw.tar.gz" | shasum -a 256 -c - >/dev/null
fi
tar xzf fftw.tar.gz
cd "fftw-$version"
# shellcheck disable=SC2086
./configure --quiet --prefix="$prefix" --enable-shared --disable-static --disable-fortran --enable-float $simd
make -s -j"$(getconf _NPROCESSORS_ONLN)"
make -s install
mkdir -p "$prefix/share/doc/fftw"
cp COPYING COPYRIGHT "$prefix/share/doc/fftw/"
