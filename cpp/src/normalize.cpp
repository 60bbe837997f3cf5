// Geometry of the background and the plane through it; the passes over pixels are kernels.
#include "cryobox/normalize.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
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

/// [begin, end) as the columns of a row, of those from -half to half - 1, that are not `outside`: one run, of which
/// rounding made a guess. Pixels exactly on an edge may be many, where a tube lies along the rows.
template <class Outside>
void narrow_or_widen(Index& begin, Index& end, Index half, const Outside& outside) noexcept {
    while (begin < end && outside(begin)) {
        ++begin;
    }
    while (begin < end && outside(end - 1)) {
        --end;
    }
    while (begin < end && begin > -half && !outside(begin - 1)) {
        --begin;
    }
    while (begin < end && end < half && !outside(end)) {
        ++end;
    }
}

} // namespace

void check_radius(Index size, double radius) {
    const bool leaves_both = radius >= 1.0 && 2.0 * radius < static_cast<double>(size); // false for nan
    if (!leaves_both) {
        throw std::invalid_argument("every radius must be at least 1 and less than half the size of its images");
    }
}

void check_tube_radius(Index size, double radius) {
    const bool leaves_both = radius > 0 && 2.0 * (radius + 1) <= static_cast<double>(size); // false for nan
    if (!leaves_both) {
        throw std::invalid_argument(
            "every tube must have a radius above 0 and at most half the size of its images - 1");
    }
}

void Background::make_room(Index size, Index neighbors) {
    first_.reserve(static_cast<std::size_t>(size + 1));
    const Index in_a_row = std::min(neighbors + 2, size / 2 + 1);
    runs_.reserve(static_cast<std::size_t>(size * in_a_row));
}

void Background::begin(Index size) noexcept {
    size_ = size;
    first_.clear();
    runs_.clear();
    first_.push_back(0);
}

void Background::add(Index begin, Index end) noexcept {
    if (begin < end) {
        runs_.push_back({.begin = begin + size_ / 2, .end = end + size_ / 2});
    }
}

Background::Background(Index size, double radius) {
    check_radius(size, radius);
    make_room(size, 0);
    outside_circle(size, radius);
}

void Background::outside_circle(Index size, double radius) noexcept {
    begin(size);
    const Index half = size / 2;
    Index inner = -1; // of the row before: the circle's edge moves little from row to row
    for (Index i = -half; i < half; ++i) {
        // The pixels that are not background are those with |j| <= inner; inner < half, as radius < size / 2.
        while (inner >= 0 && is_background(i, inner, radius)) {
            --inner;
        }
        while (!is_background(i, inner + 1, radius)) {
            ++inner;
        }
        add(-half, inner < 0 ? half : -inner);
        add(inner < 0 ? half : inner + 1, half);
        end_row();
    }
    solve();
}

void Background::outside_tube(Index size, Axis axis, double radius) noexcept {
    begin(size);
    const Index half = size / 2;
    const auto limit = static_cast<double>(half);
    for (Index i = -half; i < half; ++i) {
        const auto outside = [&](Index j) { return is_outside_tube(i, j, axis.cosine, axis.sine, radius); };
        Index begin = -half; // of what is inside: one run, found where a line through the row enters and leaves
        Index end = half;
        if (axis.sine != 0) {
            const double one = (-radius - static_cast<double>(i) * axis.cosine) / axis.sine;
            const double other = (radius - static_cast<double>(i) * axis.cosine) / axis.sine;
            begin = static_cast<Index>(std::clamp(std::floor(std::min(one, other)) - 1, -limit, limit));
            end = static_cast<Index>(std::clamp(std::ceil(std::max(one, other)) + 2, -limit, limit));
        }
        narrow_or_widen(begin, end, half, outside);
        add(-half, begin < end ? begin : half);
        add(begin < end ? end : half, half);
        end_row();
    }
    solve();
}

void Background::without(const Background& other, std::span<const Position> neighbors, double radius) noexcept {
    begin(other.size_);
    const Index half = size_ / 2;
    for (Index y = 0; y < size_; ++y) {
        const auto row = static_cast<std::ptrdiff_t>(runs_.size());
        for (Index k = other.first_[static_cast<std::size_t>(y)]; k < other.first_[static_cast<std::size_t>(y + 1)];
             ++k) {
            runs_.push_back(other.runs_[static_cast<std::size_t>(k)]);
        }
        const Index i = y - half;
        for (const Position& center : neighbors) {
            const double dy = static_cast<double>(i) - center.y;
            const double left = radius * radius - dy * dy;
            if (!(left >= 0)) {
                continue;
            }
            const auto outside = [&](Index j) { return is_far(i, j, center.y, center.x, radius); };
            const double reach = std::sqrt(left) + 1;
            const auto limit = static_cast<double>(half);
            auto begin = static_cast<Index>(std::clamp(std::floor(center.x - reach), -limit, limit));
            auto end = static_cast<Index>(std::clamp(std::ceil(center.x + reach) + 1, -limit, limit));
            narrow_or_widen(begin, end, half, outside);
            if (begin < end) {
                cut(row, begin + half, end + half);
            }
        }
        end_row();
    }
    solve();
}

void Background::cut(std::ptrdiff_t row, Index begin, Index end) noexcept {
    for (auto run = runs_.begin() + row; run != runs_.end();) {
        if (run->end <= begin || run->begin >= end) {
            ++run;
        } else if (run->begin < begin && run->end > end) {
            const Run right{.begin = end, .end = run->end};
            run->end = begin;
            runs_.insert(run + 1, right); // there is room: a row has at most one more run for each neighbor
            return;
        } else if (run->begin < begin) {
            run->end = begin;
            ++run;
        } else if (run->end > end) {
            run->begin = end;
            ++run;
        } else {
            run = runs_.erase(run);
        }
    }
}

void Background::solve() noexcept {
    const Index half = size_ / 2;
    Moments all;
    for (Index y = 0; y < size_; ++y) {
        for (Index k = first_[static_cast<std::size_t>(y)]; k < first_[static_cast<std::size_t>(y + 1)]; ++k) {
            const Run& run = runs_[static_cast<std::size_t>(k)];
            all.add(y - half, run.begin - half, run.end - half);
        }
    }
    const auto count = static_cast<double>(all.count);
    const auto sum_i = static_cast<double>(all.i);
    const auto sum_j = static_cast<double>(all.j);
    // Beyond a circle row and column -size/2 are background whole (radius < size / 2), so neither the count nor the
    // determinant is 0.
    const double mean_i = sum_i / count;
    const double mean_j = sum_j / count;
    const double ii = static_cast<double>(all.ii) - sum_i * mean_i;
    const double ij = static_cast<double>(all.ij) - sum_i * mean_j;
    const double jj = static_cast<double>(all.jj) - sum_j * mean_j;
    const double determinant = ii * jj - ij * ij;
    fit_ = PlaneFit{.count = count, .mean_i = mean_i, .mean_j = mean_j};
    if (determinant > 0) {
        fit_.inverse_ii = jj / determinant;
        fit_.inverse_ij = -ij / determinant;
        fit_.inverse_jj = ii / determinant;
    } else { // one row or column beside a tube: there is no slope across it
        fit_.inverse_ii = ii > 0 ? 1 / ii : 0;
        fit_.inverse_jj = jj > 0 ? 1 / jj : 0;
    }
}

} // namespace cryobox
