// The core's calls: every corner, every layout, every refusal, with memory that has no byte to spare.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "scene.hpp"

using namespace cryobox;
using cryobox::testing::make;
using cryobox::testing::Scene;

namespace {

ExtractOptions options(Index box, std::vector<double> radii) {
    ExtractOptions made;
    made.box = box;
    made.radii = std::move(radii);
    return made;
}

void windows_at_all_edges_stay_inside_the_memory() {
    const Scene scene(40, 50);
    std::vector<Corner> corners;
    for (std::int64_t y = -34; y <= 42; ++y) {
        for (const std::int64_t x : {-33, -32, -31, -1, 0, 1, 17, 18, 19, 49, 50}) {
            corners.push_back({.y = y, .x = x});
            corners.push_back({.y = x, .x = y});
        }
    }
    for (const std::int64_t end :
         {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()}) {
        corners.push_back({.y = end, .x = 0});
        corners.push_back({.y = 0, .x = end});
    }
    for (const bool pad : {false, true}) {
        for (const bool float16 : {false, true}) {
            auto chosen = options(32, {12, 5});
            chosen.pad = pad;
            const auto made = make(scene, corners, {32, 14}, chosen, float16);
            for (std::size_t i = 0; i < corners.size(); ++i) {
                const auto [y, x] = corners[i];
                const bool inside = y >= 0 && y <= 40 - 32 && x >= 0 && x <= 50 - 32;
                const bool touching = y > -32 && y < 40 && x > -32 && x < 50;
                CHECK((made.status[i] != Status::outside) == (pad ? touching : inside));
                if (made.status[i] == Status::outside && !float16) {
                    CHECK(made.wide[0][i * std::size_t{32} * 32] == 0);
                    CHECK(made.wide[1][(i + 1) * std::size_t{14} * 14 - 1] == 0);
                }
            }
        }
    }
}

void gray_levels_come_through_without_normalization() {
    const Scene scene(64, 64);
    auto chosen = options(64, {});
    chosen.steps.normalize = false;
    const std::vector<Corner> corners = {{.y = 0, .x = 0}};
    const auto made = make(scene, corners, {64, 32}, chosen);
    CHECK(made.wide[0] == scene.pixels);
    double mean = 0;
    double cropped = 0;
    for (const float pixel : scene.pixels) {
        mean += pixel / (64.0 * 64.0);
    }
    for (const float pixel : made.wide[1]) {
        cropped += pixel / (32.0 * 32.0);
    }
    CHECK(std::abs(mean - cropped) < 1e-3);
}

void any_box_down_to_two_pixels_is_cut_and_cropped() {
    const Scene scene(70, 70);
    const std::vector<Corner> corners = {{.y = 1, .x = 2}, {.y = 0, .x = 0}};
    for (Index box = 2; box <= 68; box += 2) {
        for (Index size = 2; size <= box; size += 2) {
            auto chosen = options(box, {});
            chosen.steps.normalize = false;
            auto made = make(scene, corners, {size}, chosen);
            CHECK(made.status[0] == Status::ok && made.status[1] == Status::ok);
            std::vector<float> cropped(static_cast<std::size_t>(size * size));
            std::vector<float> window(static_cast<std::size_t>(box * box));
            for (Index y = 0; y < box; ++y) {
                for (Index x = 0; x < box; ++x) {
                    window[static_cast<std::size_t>(y * box + x)] =
                        scene.pixels[static_cast<std::size_t>((y + 1) * 70 + x + 2)];
                }
            }
            fourier_crop(window.data(), 1, box, cropped.data(), size, 1);
            made.wide[0].resize(cropped.size()); // the first of the two
            CHECK(made.wide[0] == cropped);
        }
    }
}

void a_rejection_in_one_size_clears_all() {
    Scene scene(40, 40);
    std::ranges::fill(scene.pixels, 5.0F);
    scene.pixels[20 * 40 + 20] = 9; // contrast, but none in the background of the uncropped image
    const std::vector<Corner> corners = {{.y = 4, .x = 4}};
    const auto made = make(scene, corners, {32, 16}, options(32, {12, 6}));
    CHECK(made.status[0] == Status::no_contrast);
    for (const auto& stack : made.wide) {
        for (const float pixel : stack) {
            CHECK(pixel == 0);
        }
    }
}

void a_huge_box_that_fits_nowhere_costs_nothing() {
    const Scene scene(40, 40);
    const std::vector<Corner> corners = {{.y = 0, .x = 0}};
    Status status{};
    std::vector<double> statistics(statistics_count);
    float pixel[16];
    const StackView stack{.float32 = pixel, .float16 = nullptr, .size = 4};
    extract(scene.view(), corners, {&stack, 1}, options(largest_box, {1}), {&status, 1}, statistics);
    CHECK(status == Status::outside);
}

void wrong_arguments_are_refused() {
    const Scene scene(40, 40);
    const std::vector<Corner> corners = {{.y = 0, .x = 0}};
    const auto refused = [&](const std::vector<Index>& sizes, const ExtractOptions& chosen, const char* why) {
        return testing::throws<std::invalid_argument>([&] { make(scene, corners, sizes, chosen); }, why);
    };
    CHECK(refused({16}, options(31, {6}), "box must be"));
    CHECK(refused({16}, options(0, {6}), "box must be"));
    CHECK(refused({16}, options(largest_box + 2, {6}), "box must be"));
    CHECK(refused({34}, options(32, {6}), "every output"));
    CHECK(refused({15}, options(32, {6}), "every output"));
    CHECK(refused({16, 16}, options(32, {6, 6}), "every output"));
    CHECK(refused({}, options(32, {}), "at least one output"));
    CHECK(refused({16}, options(32, {}), "one radius"));
    CHECK(refused({16}, options(32, {8}), "radius"));
    auto chosen = options(32, {6});
    chosen.threads = 0;
    CHECK(refused({16}, chosen, "threads"));
    chosen = options(32, {6});
    chosen.steps.scale_const = std::nan("");
    CHECK(refused({16}, chosen, "scale_const"));
}

} // namespace

int main() {
    return testing::run(windows_at_all_edges_stay_inside_the_memory, gray_levels_come_through_without_normalization,
                        any_box_down_to_two_pixels_is_cut_and_cropped, a_rejection_in_one_size_clears_all,
                        a_huge_box_that_fits_nowhere_costs_nothing, wrong_arguments_are_refused);
}
