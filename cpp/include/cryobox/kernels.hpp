// The passes over pixels, in as many builds as there are instruction sets worth having. Every build gives the same
// bits: sums run in lanes of a fixed number, whatever the registers hold.
#pragma once

#include <span>
#include <string_view>

#include "cryobox/image.hpp"
#include "cryobox/normalize.hpp"

namespace cryobox {

/// What `Kernels::finish` does to a pixel: (value - plane) * scale.
struct Finish {
    Plane plane;
    double scale = 1;
    double shift = 0; ///< near the result's mean; keeps the sum of squares from cancelling
};

struct ImageStatistics {
    double minimum = 0;
    double maximum = 0;
    double mean = 0;
    double standard_deviation = 0;
    Index clamped = 0;
    bool finite = true;
};

/// One build of the passes.
struct Kernels {
    std::string_view name;
    /// Sum of all pixels of a view; not finite if and only if one of them isn't.
    double (*sum)(const ImageView& pixels) noexcept;
    /// Every pixel minus `level`, subtracted in double and rounded once, into rows of `stride` floats.
    void (*convert)(const ImageView& pixels, double level, float* out, Index stride) noexcept;
    /// The two rows of a view, as `convert` makes them, as one complex row.
    void (*convert_pair)(const ImageView& rows, double level, float* both) noexcept;

    // The steps of a Fourier crop between its transforms; crop.hpp shows their order. A complex number is two adjacent
    // floats, as std::complex<float> is; lengths and strides count complex numbers.

    /// Two rows as one.
    void (*interleave)(const float* first, const float* second, Index length, float* both) noexcept;
    void (*separate)(const float* both, Index length, float* first, float* second) noexcept;
    /// From the transform of two rows as one, the first `columns` coefficients of each, times 2, into places 0 and 1
    /// of every column. `columns` is at most half the length.
    void (*split)(const float* both, Index length, Index columns, float* to, Index stride) noexcept;
    /// The coefficients of a column of `box` that a column of `size` keeps, times `scale`: those below frequency
    /// size / 2, and the average of both signs there.
    void (*crop_column)(const float* column, Index box, float* cropped, Index size, float scale) noexcept;
    /// The inverse of `split`, without its factor: places 0 and 1 of size / 2 + 1 columns into the coefficients of two
    /// real rows as one. Only the real part of columns 0 and size / 2 counts, which is what averages both signs of
    /// frequency size / 2 along the row.
    void (*join)(const float* columns, Index stride, Index size, float* both) noexcept;

    /// Root mean square of an image about its mean, which must be near 0.
    double (*root_mean_square)(const float* image, Index size) noexcept;
    /// Sums over the background of an image.
    BackgroundSums (*background_sums)(const float* image, const BackgroundRuns& background) noexcept;
    /// Sum and sum of squares of what a plane leaves of the background.
    BackgroundSums (*residual_sums)(const float* image, const BackgroundRuns& background, const Plane& plane) noexcept;
    /// The last pass: `image` finished into `float32` or `float16`, whichever is set. The statistics are those of the
    /// float32 values.
    ImageStatistics (*finish)(const float* image, Index size, const Finish& finish, float* float32,
                              Half* float16) noexcept;
};

/// The best build that this processor runs; chosen once.
const Kernels& kernels() noexcept;

/// All builds that this processor runs, plainest first.
std::span<const Kernels* const> runnable_kernels() noexcept;

} // namespace cryobox
