// An image's background measured, and the image finished.
#pragma once

#include "cryobox/half.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/normalize.hpp"
#include "cryobox/rules.hpp"
#include "lanes.hpp"

namespace cryobox {
namespace {

/// `count` < 8 pixels of row `y` from `x` on; the lanes beyond are 0. Reads nothing beyond the image.
CRYOBOX_INLINE F8 load_some(const float* image, Index size, Index y, Index x, Index count) noexcept {
    const Index at = y * size + x;
    return at + lanes <= size * size ? keep_first(load<F8>(image + at), count) : load_some(image + at, count);
}

double root_mean_square(const float* image, Index size) noexcept {
    D8 value{};
    D8 square{};
    const Index pixels = size * size;
    const auto add = [&](D8 v) {
        value += v;
        square += v * v;
    };
    in_groups(
        0, pixels, [&](Index x) { add(widen(load<F8>(image + x))); },
        [&](Index x, Index count) { add(widen(load_some(image + x, count))); });
    const double mean = total(value) / static_cast<double>(pixels);
    const double variance = total(square) / static_cast<double>(pixels) - mean * mean;
    return variance > 0 ? __builtin_sqrt(variance) : 0;
}

Index find_beyond(const float* image, Index begin, Index pixels, float low, float high) noexcept {
    constexpr Index groups = 8; // looked at together: most hold nothing
    const F8 lowest = F8{} + low;
    const F8 highest = F8{} + high;
    Index at = begin;
    for (; at + groups * lanes <= pixels; at += groups * lanes) {
        I8 found{};
        for (Index group = 0; group < groups; ++group) {
            const F8 v = load<F8>(image + at + group * lanes);
            found |= (v > highest) | (v < lowest);
        }
        std::int64_t any[lanes / 2];
        __builtin_memcpy(any, &found, sizeof(any));
        if ((any[0] | any[1] | any[2] | any[3]) != 0) {
            break;
        }
    }
    while (at < pixels && !(image[at] > high) && !(image[at] < low)) {
        ++at;
    }
    return at;
}

/// `slope` times the column's distance from the center, for every column and a group's lanes beyond the last.
CRYOBOX_INLINE void tabulate(double slope, Index size, double* by_column) noexcept {
    const Index half = size / 2;
    for (Index x = 0; x < size + lanes; x += lanes) {
        store_wide(by_column + x, (lane_numbers + static_cast<double>(x - half)) * slope);
    }
}

/// Calls `full` and `rest` as `in_groups` does, for the background's pixels of row y.
template <class Full, class Rest>
CRYOBOX_INLINE void in_runs(const BackgroundRuns& background, Index y, const Full& full, const Rest& rest) noexcept {
    for (Index k = background.first[y]; k < background.first[y + 1]; ++k) {
        in_groups(background.runs[k].begin, background.runs[k].end, full, rest);
    }
}

/// The sums of the background; `before(y)` comes before row y is read.
template <class Before>
CRYOBOX_INLINE BackgroundSums sums_of(const float* image, const BackgroundRuns& background, const Beside& beside,
                                      const Before& before) noexcept {
    const Index size = background.size;
    const Index half = size / 2;
    double* by_column = beside.by_column;
    tabulate(1, size, by_column);
    D8 value{};
    D8 value_i{};
    D8 value_j{};
    D8 square{};
    for (Index y = 0; y < size; ++y) {
        beside.ahead.fetch();
        before(y);
        const float* row = image + y * size;
        D8 row_value{};
        const auto add = [&](D8 v, Index x) {
            row_value += v;
            value_j += v * load_wide(by_column + x);
            square += v * v;
        };
        const auto full = [&](Index x) { add(widen(load<F8>(row + x)), x); };
        const auto rest = [&](Index x, Index count) { add(widen(load_some(image, size, y, x, count)), x); };
        in_runs(background, y, full, rest);
        value += row_value;
        value_i += row_value * static_cast<double>(y - half);
    }
    return BackgroundSums{
        .value = total(value), .value_i = total(value_i), .value_j = total(value_j), .square = total(square)};
}

BackgroundSums background_sums(const float* image, const BackgroundRuns& background, const Beside& beside) noexcept {
    return sums_of(image, background, beside, [](Index) {});
}

BackgroundSums subtract_level(float* image, double level, const BackgroundRuns& background,
                              const Beside& beside) noexcept {
    const D8 levels = all(level);
    return sums_of(image, background, beside, [&](Index y) {
        float* row = image + y * background.size;
        const auto full = [&](Index x) { store(row + x, narrow(widen(load<F8>(row + x)) - levels)); };
        const auto rest = [&](Index x, Index count) {
            const F8 v = narrow(widen(load_some(row + x, count)) - levels);
            __builtin_memcpy(row + x, &v, static_cast<std::size_t>(count) * sizeof(float));
        };
        in_groups(0, background.size, full, rest);
    });
}

BackgroundSums residual_sums(const float* image, const BackgroundRuns& background, const Plane& plane,
                             const Beside& beside) noexcept {
    const Index size = background.size;
    const Index half = size / 2;
    double* by_column = beside.by_column;
    tabulate(plane.slope_x, size, by_column);
    D8 value{};
    D8 square{};
    for (Index y = 0; y < size; ++y) {
        const float* row = image + y * size;
        beside.ahead.fetch();
        const D8 row_level = all(plane.level + plane.slope_y * static_cast<double>(y - half));
        const auto residual = [&](D8 v, Index x) { return v - (row_level + load_wide(by_column + x)); };
        const auto full = [&](Index x) {
            const D8 r = residual(widen(load<F8>(row + x)), x);
            value += r;
            square += r * r;
        };
        const auto rest = [&](Index x, Index count) {
            const D8 r = keep_first(residual(widen(load_some(image, size, y, x, count)), x), count);
            value += r;
            square += r * r;
        };
        in_runs(background, y, full, rest);
    }
    return BackgroundSums{.value = total(value), .value_i = 0, .value_j = 0, .square = total(square)};
}

template <bool to_float16, bool has_shift>
ImageStatistics finish_into(const float* image, Index size, const Finish& finish, float* float32, Half* float16,
                            const Beside& beside) noexcept {
    const Index half = size / 2;
    const D8 shift = all(finish.shift);
    const D8 scale = all(finish.scale);
    const F8 limit = F8{} + largest_half;
    F8 low = F8{} + __builtin_inff();
    F8 high = F8{} - __builtin_inff();
    D8 deviation{};
    D8 square{};
    I8 beyond{};
    double* by_column = beside.by_column;
    tabulate(finish.plane.slope_x, size, by_column);
    for (Index y = 0; y < size; ++y) {
        const float* row = image + y * size;
        beside.ahead.fetch();
        const D8 row_level = all(finish.plane.level + finish.plane.slope_y * static_cast<double>(y - half));
        const auto finished = [&](D8 v, Index x) {
            return narrow((v - (row_level + load_wide(by_column + x))) * scale);
        };
        const auto from_shift = [&](F8 v) { return has_shift ? widen(v) - shift : widen(v); };
        // The statistics of the lanes that are set; `v` of the others repeats a set one and is kept out of the sums.
        const auto note = [&](F8 v, D8 d) {
            low = smaller(v, low);
            high = larger(v, high);
            deviation += d;
            square += d * d;
        };
        const auto as_half = [&](F8 v) {
            const F8 below = v > limit ? limit : v;
            return to_half(below < -limit ? -limit : below);
        };
        const auto full = [&](Index x) {
            const F8 v = finished(widen(load<F8>(row + x)), x);
            note(v, from_shift(v));
            if constexpr (to_float16) {
                beyond -= (v > limit) | (v < -limit);
                store(float16 + y * size + x, as_half(v));
            } else {
                store(float32 + y * size + x, v);
            }
        };
        const auto rest = [&](Index x, Index count) {
            F8 v = finished(widen(load_some(row + x, count)), x);
            const D8 d = keep_first(from_shift(v), count);
            for (Index lane = count; lane < lanes; ++lane) {
                v[lane] = v[0];
            }
            note(v, d);
            if constexpr (to_float16) {
                I8 outside = (v > limit) | (v < -limit);
                for (Index lane = count; lane < lanes; ++lane) {
                    outside[lane] = 0;
                }
                beyond -= outside;
                const U16x8 halves = as_half(v);
                __builtin_memcpy(static_cast<void*>(float16 + y * size + x), &halves,
                                 static_cast<std::size_t>(count) * sizeof(Half));
            } else {
                __builtin_memcpy(float32 + y * size + x, &v, static_cast<std::size_t>(count) * sizeof(float));
            }
        };
        in_groups(0, size, full, rest);
    }
    const double count = static_cast<double>(size) * static_cast<double>(size);
    const double mean = total(deviation) / count;
    const double variance = total(square) / count - mean * mean;
    ImageStatistics result;
    result.minimum = low[0];
    result.maximum = high[0];
    for (Index lane = 0; lane < lanes; ++lane) {
        result.minimum = low[lane] < result.minimum ? low[lane] : result.minimum;
        result.maximum = high[lane] > result.maximum ? high[lane] : result.maximum;
        result.clamped += beyond[lane];
    }
    result.mean = finish.shift + mean;
    result.standard_deviation = variance > 0 ? __builtin_sqrt(variance) : 0;
    result.finite = __builtin_isfinite(mean);
    return result;
}

ImageStatistics finish(const float* image, Index size, const Finish& finish, float* float32, Half* float16,
                       const Beside& beside) noexcept {
    const bool shifted = finish.shift != 0;
    if (float16 != nullptr) {
        return shifted ? finish_into<true, true>(image, size, finish, float32, float16, beside)
                       : finish_into<true, false>(image, size, finish, float32, float16, beside);
    }
    return shifted ? finish_into<false, true>(image, size, finish, float32, float16, beside)
                   : finish_into<false, false>(image, size, finish, float32, float16, beside);
}

} // namespace
} // namespace cryobox
