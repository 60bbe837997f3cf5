// The layout of a Fourier crop between its one-dimensional transforms; its steps are kernels. Two real rows travel as
// the real and imaginary part of one complex row; columns lie adjacent, `stride` apart.
//
//   box rows, two by two ─forward─▶ split ▶ columns ─forward─▶ crop_column ─backward─▶ join ─backward─▶ rows, two by
//   two
#pragma once

#include "cryobox/fft.hpp"
#include "cryobox/image.hpp"

namespace cryobox {

/// Distance between adjacent columns of `length`, in numbers: whole cache lines, and an odd count of them, so that
/// one row of all columns spreads over a cache instead of falling into one set of it.
constexpr Index column_stride(Index length) noexcept {
    constexpr Index line = 8;
    const Index lines = (length + line - 1) / line;
    return (lines | 1) * line;
}

/// The parts of complex numbers, one after the other: what the kernels work on (the standard allows it).
inline const float* parts(const Complex* numbers) noexcept { return reinterpret_cast<const float*>(numbers); }
inline float* parts(Complex* numbers) noexcept { return reinterpret_cast<float*>(numbers); }

} // namespace cryobox
