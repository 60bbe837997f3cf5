// What is done to the pixels of an image once it has its size, and what every backend decides about it in the same
// way. Plain functions of numbers: device code uses them as they are.
#pragma once

#include <cmath>

#include "cryobox/normalize.hpp"
#include "cryobox/rules.hpp"

#ifdef __CUDACC__
#define CRYOBOX_SHARED __host__ __device__ inline
#else
#define CRYOBOX_SHARED inline
#endif

namespace cryobox {

/// The steps that a caller asks for; docs/conventions.md says what each word means.
struct Steps {
    bool normalize = true;
    bool ramp = true;
    bool invert = false;
    double scale_const = 0; ///< 0: each particle's own background sd
    bool measures = false;  ///< fill the statistics from `contrast` on, of the first size
    double white_dust = 0;  ///< sd of the background above its mean beyond which a pixel is replaced; 0: none is
    double black_dust = 0;  ///< the same below it
};

/// What the last pass does to a pixel: (value - plane) * scale.
struct Finish {
    Plane plane;
    double scale = 1;
    double shift = 0; ///< near the result's mean; keeps the sum of squares from cancelling
};

/// Which pixels of an image are dust, and what they become.
struct Dust {
    double level = 0; ///< of the background, before its plane is subtracted
    double sd = 0;
    double above = 0; ///< how far beyond the level; infinite: none
    double below = 0;

    [[nodiscard]] constexpr bool holds(double value) const noexcept {
        return value - level > above || value - level < -below;
    }
};

CRYOBOX_SHARED bool replaces_dust(const Steps& steps) noexcept { return steps.white_dust > 0 || steps.black_dust > 0; }

CRYOBOX_SHARED Dust dust_of(const Steps& steps, const PlaneFit& fit, const BackgroundSums& sums) noexcept {
    const double level = sums.value / fit.count;
    const double variance = sums.square / fit.count - level * level;
    const double sd = variance > 0 ? std::sqrt(variance) : 0.0;
    const auto beyond = [&](double threshold) { return threshold > 0 ? threshold * sd : HUGE_VAL; };
    return Dust{.level = level, .sd = sd, .above = beyond(steps.white_dust), .below = beyond(steps.black_dust)};
}

/// How an image is finished, or why it isn't.
struct Finishing {
    Finish finish;
    double level = 0; ///< of the background, in gray levels of the micrograph
    double sd = 0;
    Status status = Status::ok;
};

/// What is subtracted from an image with these sums: the plane through its background, or the background's mean.
CRYOBOX_SHARED Plane subtracted(const Steps& steps, const PlaneFit& fit, const BackgroundSums& sums) noexcept {
    return steps.ramp ? fit(sums) : Plane{.level = sums.value / fit.count, .slope_y = 0, .slope_x = 0};
}

/// How an image is normalized: `plane` is `subtracted`, `left` what it leaves of the background, `window_mean` what
/// was taken out of the pixels before.
CRYOBOX_SHARED Finishing normalized(const Steps& steps, const PlaneFit& fit, const BackgroundSums& sums,
                                    const Plane& plane, const BackgroundSums& left, double window_mean) noexcept {
    const double offset = left.value / fit.count;
    const double variance = left.square / fit.count - offset * offset;
    Finishing result;
    result.level = sums.value / fit.count + window_mean;
    result.sd = variance > 0 ? std::sqrt(variance) : 0.0;
    result.finish.plane = plane;
    result.finish.plane.level += offset;
    const double scale = 1 / (steps.scale_const > 0 ? steps.scale_const : result.sd);
    result.finish.scale = steps.invert ? -scale : scale;
    if (!has_contrast(result.sd, std::sqrt(sums.square / fit.count))) {
        result.status = Status::no_contrast;
    }
    return result;
}

/// How an image keeps its gray levels: the mean that was taken out of a cropped one is added back.
CRYOBOX_SHARED Finishing restored(const Steps& steps, bool cropped, double window_mean) noexcept {
    Finishing result;
    result.finish.plane.level = cropped ? -window_mean : 0.0;
    result.finish.scale = steps.invert ? -1.0 : 1.0;
    result.finish.shift = steps.invert ? -window_mean : window_mean;
    return result;
}

/// What an image is that comes out with pixels that are not finite: gray levels near the end of float32, or a divisor
/// near 0.
CRYOBOX_SHARED Status overflown(const Steps& steps) noexcept {
    return steps.normalize ? Status::no_contrast : Status::not_finite;
}

} // namespace cryobox
