// The steps of a Fourier crop between its one-dimensional transforms. Two real rows travel as the real and imaginary
// part of one complex row; columns lie adjacent, `stride` apart.
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

/// Two rows as one.
void interleave(const float* first, const float* second, Index length, Complex* both) noexcept;
void separate(const Complex* both, Index length, float* first, float* second) noexcept;

/// From the transform of two rows as one, the first `columns` coefficients of each, times 2, into places 0 and 1 of
/// every column.
void split(const Complex* both, Index length, Index columns, Complex* to, Index stride) noexcept;

/// The coefficients of a column of `box` that a column of `size` keeps, times `scale`: those below frequency
/// size / 2, and the average of both signs there.
void crop_column(const Complex* column, Index box, Complex* cropped, Index size, float scale) noexcept;

/// The inverse of `split`, without its factor: places 0 and 1 of size / 2 + 1 columns into the coefficients of two
/// real rows as one. Only the real part of columns 0 and size / 2 counts, which is what averages both signs of
/// frequency size / 2 along the row.
void join(const Complex* columns, Index stride, Index size, Complex* both) noexcept;

} // namespace cryobox
