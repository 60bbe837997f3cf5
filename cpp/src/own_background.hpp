// The background of one window: beyond a circle, outside its tube, without its neighbors.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "cryobox/extract.hpp"
#include "cryobox/normalize.hpp"
#include "plan.hpp"
#include "workspace.hpp"

namespace cryobox {

/// Where less of the background is left without the neighbors, it counts whole.
inline constexpr double smallest_part_left = 0.2;

/// Calls `work(place)` for the neighbors of a window that are at most `reach` from its center along each axis; places
/// are counted from there. A particle in the window's own center is no neighbor.
template <class Work>
void for_neighbors(std::span<const Position> all, Corner corner, Index box, double reach, const Work& work) noexcept {
    const double y = static_cast<double>(corner.y) + static_cast<double>(box / 2);
    const double x = static_cast<double>(corner.x) + static_cast<double>(box / 2);
    const auto first = std::ranges::lower_bound(all, y - reach, {}, &Position::y);
    for (auto at = first; at != all.end() && at->y <= y + reach; ++at) {
        const Position place{.y = at->y - y, .x = at->x - x};
        if (std::abs(place.x) <= reach && (place.y != 0 || place.x != 0)) {
            work(place);
        }
    }
}

/// The most neighbors of any window.
inline Index most_neighbors(const Plan& plan, std::span<const Corner> corners) noexcept {
    Index most = 0;
    for (const Corner& corner : corners) {
        Index count = 0;
        for_neighbors(plan.options.neighbors, corner, plan.box, plan.reach(), [&](const Position&) { ++count; });
        most = std::max(most, count);
    }
    return most;
}

/// The background of an image of window `n`, and whether neighbors would leave too little of it.
struct OwnBackground {
    const Background* background = nullptr;
    bool crowded = false;
};

inline OwnBackground own_background(const Plan& plan, const OutputPlan& output, Index n, Corner corner,
                                    Workspace& workspace) noexcept {
    const Background* plain = output.background;
    const Index size = output.stack.size;
    if (!plan.options.axes.empty()) {
        workspace.tube.outside_tube(size, plan.options.axes[static_cast<std::size_t>(n)], output.radius);
        plain = &workspace.tube;
    }
    if (plan.options.neighbors.empty()) {
        return {.background = plain};
    }
    workspace.near.clear();
    const auto side = static_cast<double>(size);
    const auto box = static_cast<double>(plan.box);
    for_neighbors(plan.options.neighbors, corner, plan.box, plan.reach(), [&](const Position& place) {
        workspace.near.push_back({.y = place.y * side / box, .x = place.x * side / box});
    });
    if (workspace.near.empty()) {
        return {.background = plain};
    }
    workspace.alone.without(*plain, workspace.near, output.radius);
    const bool crowded = workspace.alone.count() < smallest_part_left * plain->count();
    return {.background = crowded ? plain : &workspace.alone, .crowded = crowded};
}

} // namespace cryobox
