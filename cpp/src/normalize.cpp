// Geometry of the background and the plane through it; the passes over pixels are kernels.
#include "cryobox/normalize.hpp"

#include <stdexcept>

#include "cryobox/rules.hpp"

namespace cryobox {

void check_radius(Index size, double radius) {
    const bool leaves_both = radius >= 1.0 && 2.0 * radius < static_cast<double>(size); // false for nan
    if (!leaves_both) {
        throw std::invalid_argument("every radius must be at least 1 and less than half the size of its images");
    }
}

Background::Background(Index size, double radius) : size_(size) {
    check_radius(size, radius);
    const Index half = size / 2;
    double count = 0;
    double sum_i = 0;
    double sum_j = 0;
    double sum_ii = 0;
    double sum_ij = 0;
    double sum_jj = 0;
    first_run_end_.reserve(static_cast<std::size_t>(size));
    second_run_begin_.reserve(static_cast<std::size_t>(size));
    for (Index i = -half; i < half; ++i) {
        // The pixels that are not background are those with |j| <= inner; inner < half, as radius < size / 2.
        Index inner = is_background(i, 0, radius) ? -1 : 0;
        while (inner >= 0 && !is_background(i, inner + 1, radius)) {
            ++inner;
        }
        const Index first_end = inner < 0 ? size : half - inner;
        const Index second_begin = inner < 0 ? size : half + inner + 1;
        first_run_end_.push_back(first_end);
        second_run_begin_.push_back(second_begin);
        for (Index j = -half; j < half; ++j) {
            if (j + half < first_end || j + half >= second_begin) {
                count += 1; // sums of integers far below 2^53: exact
                sum_i += static_cast<double>(i);
                sum_j += static_cast<double>(j);
                sum_ii += static_cast<double>(i * i);
                sum_ij += static_cast<double>(i * j);
                sum_jj += static_cast<double>(j * j);
            }
        }
    }
    // Row and column -size/2 are background whole (radius < size / 2), so neither the count nor the determinant is 0.
    const double mean_i = sum_i / count;
    const double mean_j = sum_j / count;
    const double ii = sum_ii - sum_i * mean_i;
    const double ij = sum_ij - sum_i * mean_j;
    const double jj = sum_jj - sum_j * mean_j;
    const double determinant = ii * jj - ij * ij;
    fit_ = PlaneFit{.count = count,
                    .mean_i = mean_i,
                    .mean_j = mean_j,
                    .inverse_ii = jj / determinant,
                    .inverse_ij = -ij / determinant,
                    .inverse_jj = ii / determinant};
}

} // namespace cryobox
