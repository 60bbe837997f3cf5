// What is measured of an image beside its background.
#pragma once

#include "cryobox/kernels.hpp"
#include "cryobox/normalize.hpp"
#include "finish.hpp"
#include "lanes.hpp"

namespace cryobox {
namespace {

/// Sums over a part of an image.
struct PartSums {
    D8 value{};
    D8 square{};
    Index count = 0;
};

/// What the pixels of row y that `others` does not have add to `sums`.
template <class Residual>
CRYOBOX_INLINE void add_between(PartSums& sums, const float* image, const BackgroundRuns& others, Index y,
                                const Residual& residual) noexcept {
    const Index size = others.size;
    const auto add = [&](const D8& r) {
        sums.value += r;
        sums.square += r * r;
    };
    const auto piece = [&](Index begin, Index end) {
        sums.count += end > begin ? end - begin : 0;
        in_groups(
            begin, end, [&](Index x) { add(residual(widen(load<F8>(image + y * size + x)), x)); },
            [&](Index x, Index count) {
                add(keep_first(residual(widen(load_some(image, size, y, x, count)), x), count));
            });
    };
    Index x = 0;
    for (Index k = others.first[y]; k < others.first[y + 1]; ++k) {
        piece(x, others.runs[k].begin);
        x = others.runs[k].end;
    }
    piece(x, size);
}

MeasureSums measure_sums(const float* image, const BackgroundRuns& background, const BackgroundRuns& middle,
                         const Plane& plane, const Beside& beside) noexcept {
    constexpr Index side = lanes; // of a square
    const Index size = background.size;
    const Index half = size / 2;
    const double* by_column = beside.by_column;
    tabulate(plane.slope_x, size, beside.by_column);
    PartSums within;
    PartSums center;
    MeasureSums result;
    for (Index y = 0; y < size; ++y) {
        const D8 row_level = all(plane.level + plane.slope_y * static_cast<double>(y - half));
        const auto residual = [&](const D8& v, Index x) { return v - (row_level + load_wide(by_column + x)); };
        add_between(within, image, background, y, residual);
        add_between(center, image, middle, y, residual);
    }
    const D8 step = all(plane.slope_y);
    for (Index top = 0; top + side <= size; top += side) {
        const D8 first = all(plane.level + plane.slope_y * static_cast<double>(top - half));
        for (Index left = 0; left + side <= size; left += side) {
            D8 level = first + load_wide(by_column + left);
            D8 value{};
            D8 square{};
            for (Index y = top; y < top + side; ++y) {
                const D8 r = widen(load<F8>(image + y * size + left)) - level;
                value += r;
                square += r * r;
                level += step;
            }
            constexpr double pixels = side * side;
            const double mean = total(value) / pixels;
            const double variance = total(square) / pixels - mean * mean;
            result.local += variance > 0 ? variance : 0;
            result.squares += 1;
        }
    }
    result.middle = total(center.value);
    result.middle_count = static_cast<double>(center.count);
    result.inside = total(within.value);
    result.inside_square = total(within.square);
    result.inside_count = static_cast<double>(within.count);
    return result;
}

} // namespace
} // namespace cryobox
