// Geometry of the background and the plane through it; the passes over pixels are kernels.
#include "cryobox/normalize.hpp"

#include <stdexcept>

#include "cryobox/rules.hpp"

namespace cryobox {

Background::Background(Index size, double radius) : size_(size) {
    if (!(radius >= 1.0 && 2.0 * radius < static_cast<double>(size))) {
        throw std::invalid_argument("every radius must be at least 1 and less than half the size of its images");
    }
    const Index half = size / 2;
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
                count_ += 1; // sums of integers far below 2^53: exact
                sum_i += static_cast<double>(i);
                sum_j += static_cast<double>(j);
                sum_ii += static_cast<double>(i * i);
                sum_ij += static_cast<double>(i * j);
                sum_jj += static_cast<double>(j * j);
            }
        }
    }
    // Row and column -size/2 are background whole (radius < size / 2), so neither the count nor the determinant is 0.
    mean_i_ = sum_i / count_;
    mean_j_ = sum_j / count_;
    const double ii = sum_ii - sum_i * mean_i_;
    const double ij = sum_ij - sum_i * mean_j_;
    const double jj = sum_jj - sum_j * mean_j_;
    const double determinant = ii * jj - ij * ij;
    inverse_ii_ = jj / determinant;
    inverse_ij_ = -ij / determinant;
    inverse_jj_ = ii / determinant;
}

Plane Background::fit(const BackgroundSums& sums) const noexcept {
    const double mean = sums.value / count_;
    const double vi = sums.value_i - mean_i_ * sums.value;
    const double vj = sums.value_j - mean_j_ * sums.value;
    const double slope_y = inverse_ii_ * vi + inverse_ij_ * vj;
    const double slope_x = inverse_ij_ * vi + inverse_jj_ * vj;
    return Plane{.level = mean - slope_y * mean_i_ - slope_x * mean_j_, .slope_y = slope_y, .slope_x = slope_x};
}

} // namespace cryobox
