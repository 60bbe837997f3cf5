// The background of an image: which pixels it has, the plane through them, and what they say.
#pragma once

#include <vector>

#include "cryobox/image.hpp"

namespace cryobox {

/// value = level + slope_y * i + slope_x * j, with i and j counted from the image's center.
struct Plane {
    double level = 0;
    double slope_y = 0;
    double slope_x = 0;
};

/// Sums over the background of an image.
struct BackgroundSums {
    double value = 0;
    double value_i = 0;
    double value_j = 0;
    double square = 0;
};

/// The least-squares plane through the background of images of one size, solved but for the pixels: how many there are,
/// their mean position, and the inverse of the 2 x 2 matrix of their central second moments.
struct PlaneFit {
    double count = 0;
    double mean_i = 0;
    double mean_j = 0;
    double inverse_ii = 0;
    double inverse_ij = 0;
    double inverse_jj = 0;

    /// The plane through pixels with these sums.
    [[nodiscard]] constexpr Plane operator()(const BackgroundSums& sums) const noexcept {
        const double mean = sums.value / count;
        const double vi = sums.value_i - mean_i * sums.value;
        const double vj = sums.value_j - mean_j * sums.value;
        const double slope_y = inverse_ii * vi + inverse_ij * vj;
        const double slope_x = inverse_ij * vi + inverse_jj * vj;
        return Plane{.level = mean - slope_y * mean_i - slope_x * mean_j, .slope_y = slope_y, .slope_x = slope_x};
    }
};

/// Which pixels of an image are background: in row y the columns [0, first_run_end[y]) and [second_run_begin[y], size).
struct BackgroundRuns {
    Index size = 0;
    const Index* first_run_end = nullptr;
    const Index* second_run_begin = nullptr;
};

/// @throws std::invalid_argument unless 1 <= radius < size / 2
void check_radius(Index size, double radius);

/// The pixels beyond a radius in an image of one size, as two runs per row, and the normal equations of a
/// least-squares plane through them, solved once. Immutable; shared by all workers.
class Background {
public:
    /// @throws std::invalid_argument unless 1 <= radius < size / 2
    Background(Index size, double radius);

    [[nodiscard]] double count() const noexcept { return fit_.count; }
    [[nodiscard]] BackgroundRuns runs() const noexcept {
        return {.size = size_, .first_run_end = first_run_end_.data(), .second_run_begin = second_run_begin_.data()};
    }
    [[nodiscard]] const PlaneFit& fit() const noexcept { return fit_; }
    /// The least-squares plane through pixels with these sums.
    [[nodiscard]] Plane fit(const BackgroundSums& sums) const noexcept { return fit_(sums); }

private:
    Index size_;
    PlaneFit fit_;
    std::vector<Index> first_run_end_;
    std::vector<Index> second_run_begin_;
};

} // namespace cryobox
