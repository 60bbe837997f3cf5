// The background: its pixels counted one by one, and planes found again.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "check.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/normalize.hpp"
#include "cryobox/rules.hpp"

using namespace cryobox;

namespace {

bool holds(const BackgroundRuns& background, Index y, Index x) {
    return std::any_of(background.runs + background.first[y], background.runs + background.first[y + 1],
                       [&](const Run& run) { return x >= run.begin && x < run.end; });
}

void the_runs_hold_exactly_the_pixels_beyond_the_radius() {
    for (const Index size : {4, 6, 22, 64}) {
        for (int hundredths = 100; hundredths < 50 * size; hundredths += 37) {
            const double radius = hundredths / 100.0;
            const Background background(size, radius);
            const BackgroundRuns runs = background.runs();
            double count = 0;
            for (Index y = 0; y < size; ++y) {
                for (Index x = 0; x < size; ++x) {
                    const bool in_runs = holds(runs, y, x);
                    const bool wanted = is_background(y - size / 2, x - size / 2, radius);
                    CHECK(in_runs == wanted);
                    count += wanted ? 1 : 0;
                }
            }
            CHECK(background.count() == count);
        }
    }
}

void a_circle_may_hold_a_single_pixel() {
    Background outside;
    outside.make_room(6, 0);
    for (const double radius : {0.0, 0.5, 1.0, 1.5, 2.9}) {
        outside.outside_circle(6, radius);
        for (Index y = 0; y < 6; ++y) {
            for (Index x = 0; x < 6; ++x) {
                CHECK(holds(outside.runs(), y, x) == is_background(y - 3, x - 3, radius));
            }
        }
    }
}

void a_plane_is_found_again_at_the_smallest_and_the_widest_radius() {
    for (const Index size : {4, 30, 128}) {
        for (const double radius : {1.0, static_cast<double>(size) / 2 - 0.01}) {
            const Background background(size, radius);
            const Index half = size / 2;
            std::vector<float> image(static_cast<std::size_t>(size * size));
            for (Index y = 0; y < size; ++y) {
                for (Index x = 0; x < size; ++x) {
                    image[static_cast<std::size_t>(y * size + x)] =
                        static_cast<float>(7 + 2 * y - size - 3 * x + 3 * half);
                }
            }
            std::vector<double> by_column(static_cast<std::size_t>(room_for_columns(size)));
            Ahead nothing;
            const Beside beside{.by_column = by_column.data(), .ahead = nothing};
            for (const Kernels* build : runnable_kernels()) {
                const Plane plane = background.fit(build->background_sums(image.data(), background.runs(), beside));
                CHECK(std::abs(plane.level - 7) < 1e-10);
                CHECK(std::abs(plane.slope_y - 2) < 1e-11);
                CHECK(std::abs(plane.slope_x + 3) < 1e-11);
            }
        }
    }
}

void a_radius_outside_its_range_is_refused() {
    for (const double radius : {0.99, 16.0, -1.0, std::nan(""), HUGE_VAL}) {
        CHECK(testing::throws<std::invalid_argument>([&] { const Background b(32, radius); }, "radius"));
    }
}

} // namespace

int main() {
    return testing::run(the_runs_hold_exactly_the_pixels_beyond_the_radius, a_circle_may_hold_a_single_pixel,
                        a_plane_is_found_again_at_the_smallest_and_the_widest_radius,
                        a_radius_outside_its_range_is_refused);
}
