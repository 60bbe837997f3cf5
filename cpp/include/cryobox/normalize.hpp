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

/// Which pixels of an image are background: in row y the columns [0, first_run_end[y]) and [second_run_begin[y], size).
struct BackgroundRuns {
    Index size = 0;
    const Index* first_run_end = nullptr;
    const Index* second_run_begin = nullptr;
};

/// The pixels beyond a radius in an image of one size, as two runs per row, and the normal equations of a
/// least-squares plane through them, solved once. Immutable; shared by all workers.
class Background {
public:
    /// @throws std::invalid_argument unless 1 <= radius < size / 2
    Background(Index size, double radius);

    [[nodiscard]] double count() const noexcept { return count_; }
    [[nodiscard]] BackgroundRuns runs() const noexcept {
        return {.size = size_, .first_run_end = first_run_end_.data(), .second_run_begin = second_run_begin_.data()};
    }
    /// The least-squares plane through pixels with these sums.
    [[nodiscard]] Plane fit(const BackgroundSums& sums) const noexcept;

private:
    Index size_;
    double count_ = 0;
    double mean_i_ = 0;
    double mean_j_ = 0;
    // Inverse of the 2 x 2 matrix of central second moments.
    double inverse_ii_ = 0;
    double inverse_ij_ = 0;
    double inverse_jj_ = 0;
    std::vector<Index> first_run_end_;
    std::vector<Index> second_run_begin_;
};

} // namespace cryobox
