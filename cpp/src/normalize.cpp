// Geometry of the background and the plane through it; the passes over pixels are kernels.
#include "cryobox/normalize.hpp"

#include <stdexcept>

#include "cryobox/rules.hpp"

namespace cryobox {

namespace {

/// Sums of the positions of pixels and of their products: exact.
struct Moments {
    Index count = 0;
    Index i = 0;
    Index j = 0;
    Index ii = 0;
    Index ij = 0;
    Index jj = 0;

    /// The pixels of row `row` in the columns [begin, end).
    void add(Index row, Index begin, Index end) noexcept {
        const Index length = end - begin;
        const Index columns = length * (begin + end - 1) / 2;
        count += length;
        i += length * row;
        j += columns;
        ii += length * row * row;
        ij += row * columns;
        jj += squares_below(end) - squares_below(begin);
    }

private:
    /// A polynomial whose differences are the squares: that at n + 1 minus that at n is n * n, of either sign.
    static constexpr Index squares_below(Index n) noexcept { return (n - 1) * n * (2 * n - 1) / 6; }
};

} // namespace

void check_radius(Index size, double radius) {
    const bool leaves_both = radius >= 1.0 && 2.0 * radius < static_cast<double>(size); // false for nan
    if (!leaves_both) {
        throw std::invalid_argument("every radius must be at least 1 and less than half the size of its images");
    }
}

Background::Background(Index size, double radius) : size_(size) {
    check_radius(size, radius);
    const Index half = size / 2;
    Moments all;
    first_run_end_.reserve(static_cast<std::size_t>(size));
    second_run_begin_.reserve(static_cast<std::size_t>(size));
    Index inner = -1; // of the row before: the circle's edge moves little from row to row
    for (Index i = -half; i < half; ++i) {
        // The pixels that are not background are those with |j| <= inner; inner < half, as radius < size / 2.
        while (inner >= 0 && is_background(i, inner, radius)) {
            --inner;
        }
        while (!is_background(i, inner + 1, radius)) {
            ++inner;
        }
        const Index first_end = inner < 0 ? size : half - inner;
        const Index second_begin = inner < 0 ? size : half + inner + 1;
        first_run_end_.push_back(first_end);
        second_run_begin_.push_back(second_begin);
        all.add(i, -half, first_end - half);
        all.add(i, second_begin - half, half);
    }
    const auto count = static_cast<double>(all.count);
    const auto sum_i = static_cast<double>(all.i);
    const auto sum_j = static_cast<double>(all.j);
    // Row and column -size/2 are background whole (radius < size / 2), so neither the count nor the determinant is 0.
    const double mean_i = sum_i / count;
    const double mean_j = sum_j / count;
    const double ii = static_cast<double>(all.ii) - sum_i * mean_i;
    const double ij = static_cast<double>(all.ij) - sum_i * mean_j;
    const double jj = static_cast<double>(all.jj) - sum_j * mean_j;
    const double determinant = ii * jj - ij * ij;
    fit_ = PlaneFit{.count = count,
                    .mean_i = mean_i,
                    .mean_j = mean_j,
                    .inverse_ii = jj / determinant,
                    .inverse_ij = -ij / determinant,
                    .inverse_jj = ii / determinant};
}

} // namespace cryobox
