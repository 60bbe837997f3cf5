// The rules of indices and values that every backend shares. Nothing here but constexpr functions and constants, so
// that device code can use them as they are (nvcc --expt-relaxed-constexpr).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace cryobox {

/// What became of a particle. The values are those of cryobox.core.Status.
enum class Status : std::uint8_t { ok = 0, outside = 1, not_finite = 2, no_contrast = 3 };

/// Columns of the statistics, in the order of cryobox.core.STATISTICS.
enum Statistic : std::uint8_t {
    minimum,
    maximum,
    mean,
    standard_deviation,
    background_mean,
    background_sd,
    clamped,
    dust,            ///< pixels that were replaced
    crowded,         ///< 1: too little was left of the background without the neighbors; it counts whole
    contrast,        ///< middle minus background, in sd of the background; this and what follows: see `measures`
    signal_to_noise, ///< variance within the radius over that of the background, minus 1
    local_variance,  ///< mean variance of squares of 8 x 8 pixels, over that of the background
    saturated,       ///< part of the window's pixels that are the largest number of their type, if not float32
    statistics_count
};

/// The largest finite float16; what lies beyond is clamped to it, and counted.
inline constexpr float largest_half = 65504.0F;

/// A background whose sd is this small beside its own root mean square varies by rounding only: exact arithmetic
/// would have given zero.
inline constexpr double smallest_contrast = 1e-12;

/// How a window lies in an image, along one axis.
enum class Placement : std::uint8_t { inside, overhanging, outside };

/// Compares without adding to `corner`, which may be any number; an exact fit is inside.
constexpr Placement place(std::int64_t corner, std::int64_t box, std::int64_t extent) noexcept {
    if (extent <= 0 || corner >= extent || corner <= -box) {
        return Placement::outside;
    }
    return corner >= 0 && corner <= extent - box ? Placement::inside : Placement::overhanging;
}

/// Whether a box with its first pixel at (`y`, `x`) is cut from an image, or its particle is `Status::outside`.
constexpr bool may_be_cut(std::int64_t y, std::int64_t x, std::int64_t box, std::int64_t height, std::int64_t width,
                          bool pad) noexcept {
    const Placement vertical = place(y, box, height);
    const Placement horizontal = place(x, box, width);
    if (vertical == Placement::outside || horizontal == Placement::outside) {
        return false;
    }
    return pad || (vertical == Placement::inside && horizontal == Placement::inside);
}

/// The nearest index inside an axis of `extent` pixels.
constexpr std::ptrdiff_t nearest_inside(std::ptrdiff_t index, std::ptrdiff_t extent) noexcept {
    if (index < 0) {
        return 0;
    }
    return index < extent ? index : extent - 1;
}

/// Where frequency `k` (which may be negative) stands in a transform of `size` points.
constexpr std::ptrdiff_t place_of_frequency(std::ptrdiff_t k, std::ptrdiff_t size) noexcept {
    return k < 0 ? k + size : k;
}

/// Which frequency stands at `place` in a transform of `size` points: 0 ... size / 2, then the negative ones.
constexpr std::ptrdiff_t frequency_at(std::ptrdiff_t place, std::ptrdiff_t size) noexcept {
    return place <= size / 2 ? place : place - size;
}

/// Whether a background varies by more than rounding; `root_mean_square` is that of its pixels, mean and plane in it.
/// Not where its sd is nan or infinite.
constexpr bool has_contrast(double sd, double root_mean_square) noexcept {
    return sd > smallest_contrast * root_mean_square && sd <= std::numeric_limits<double>::max();
}

/// The same for a cropped image: a float32 transform leaves about 1e-7 of the whole image's root mean square, its mean
/// taken out, in every pixel. Where the background varies by no more, as around a hot pixel on a flat detector, exact
/// arithmetic would have given zero.
inline constexpr double smallest_cropped_contrast = 1e-6;

constexpr bool has_cropped_contrast(double sd, double image_root_mean_square) noexcept {
    return sd > smallest_cropped_contrast * image_root_mean_square;
}

/// Whether a pixel is background; `i`, `j` count from the image's center, index size / 2.
constexpr bool is_background(std::ptrdiff_t i, std::ptrdiff_t j, double radius) noexcept {
    return static_cast<double>(i * i + j * j) > radius * radius;
}

/// Whether a pixel lies outside a tube whose axis runs through the center; RELION's formula and order.
constexpr bool is_outside_tube(std::ptrdiff_t i, std::ptrdiff_t j, double cosine, double sine, double radius) noexcept {
    const double distance = static_cast<double>(i) * cosine + static_cast<double>(j) * sine;
    return (distance < 0 ? -distance : distance) > radius;
}

/// Whether a pixel is farther than `radius` from a place, both counted from the image's center.
constexpr bool is_far(std::ptrdiff_t i, std::ptrdiff_t j, double y, double x, double radius) noexcept {
    const double dy = static_cast<double>(i) - y;
    const double dx = static_cast<double>(j) - x;
    return dy * dy + dx * dx > radius * radius;
}

} // namespace cryobox
