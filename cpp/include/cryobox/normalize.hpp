// The background of an image: which pixels it has, the plane through them, and what they say.
#pragma once

#include <cstddef>
#include <span>
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

/// Columns [begin, end) of a row.
struct Run {
    Index begin = 0;
    Index end = 0;
};

/// Which pixels of an image are background: of row y those in `runs[first[y]]` ... `runs[first[y + 1] - 1]`, from the
/// left to the right.
struct BackgroundRuns {
    Index size = 0;
    const Index* first = nullptr; ///< size + 1 of them
    const Run* runs = nullptr;
};

/// Sums over an image without its plane.
struct MeasureSums {
    double middle = 0; ///< over the middle, of so many pixels
    double middle_count = 0;
    double inside = 0; ///< over all that is no background, of so many pixels
    double inside_square = 0;
    double inside_count = 0;
    double local = 0; ///< variances of so many squares
    double squares = 0;
};

/// The direction of a tube's axis through the box's center: a pixel (i, j), counted from there, is i * cosine + j *
/// sine away from it.
struct Axis {
    double cosine = 1;
    double sine = 0;
};

/// A place in an image, counted from its center, index size / 2; or in a micrograph, from its first pixel.
struct Position {
    double y = 0;
    double x = 0;
};

/// @throws std::invalid_argument unless 1 <= radius < size / 2
void check_radius(Index size, double radius);

/// @throws std::invalid_argument unless a tube of this radius leaves background: 0 < radius <= size / 2 - 1
void check_tube_radius(Index size, double radius);

/// The background of images of one size, as runs, and the normal equations of a least-squares plane through it, solved
/// but for the pixels. The pixels beyond a radius are shared by all workers; those of one window's own shape, a tube's
/// or one without its neighbors, a worker makes anew, in the same memory.
class Background {
public:
    /// Nothing: room for that of a window, where `make_room` has been called.
    Background() = default;
    /// The pixels beyond a radius.
    /// @throws std::invalid_argument unless 1 <= radius < size / 2
    Background(Index size, double radius);

    /// Room for backgrounds of images up to `size`, with so many neighbors.
    void make_room(Index size, Index neighbors);

    /// The pixels beyond `radius` from the center, which may be smaller than that of a background.
    void outside_circle(Index size, double radius) noexcept;
    /// The pixels beyond `radius` from an axis.
    void outside_tube(Index size, Axis axis, double radius) noexcept;
    /// Another background, without the pixels within `radius` of any of `neighbors`.
    void without(const Background& other, std::span<const Position> neighbors, double radius) noexcept;

    [[nodiscard]] Index bytes() const noexcept {
        return static_cast<Index>(first_.capacity() * sizeof(Index) + runs_.capacity() * sizeof(Run));
    }
    [[nodiscard]] double count() const noexcept { return fit_.count; }
    [[nodiscard]] BackgroundRuns runs() const noexcept {
        return {.size = size_, .first = first_.data(), .runs = runs_.data()};
    }
    [[nodiscard]] const PlaneFit& fit() const noexcept { return fit_; }
    /// The least-squares plane through pixels with these sums.
    [[nodiscard]] Plane fit(const BackgroundSums& sums) const noexcept { return fit_(sums); }

private:
    void begin(Index size) noexcept;
    void end_row() noexcept { first_.push_back(static_cast<Index>(runs_.size())); }
    /// The columns [begin, end) of the row at hand, counted from the center; may be none.
    void add(Index begin, Index end) noexcept;
    /// Take the columns [begin, end) out of the runs from number `row` on.
    void cut(std::ptrdiff_t row, Index begin, Index end) noexcept;
    void solve() noexcept;

    Index size_ = 0;
    PlaneFit fit_;
    std::vector<Index> first_;
    std::vector<Run> runs_;
};

} // namespace cryobox
