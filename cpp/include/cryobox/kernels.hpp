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
