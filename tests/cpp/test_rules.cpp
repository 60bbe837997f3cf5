// The rules of indices: where a window lies, at any corner that fits 64 bits.
#include <cstdint>
#include <limits>

#include "check.hpp"
#include "cryobox/rules.hpp"

using namespace cryobox;

namespace {

constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

void an_exact_fit_is_inside_and_one_pixel_further_hangs_over() {
    CHECK(place(0, 10, 10) == Placement::inside);
    CHECK(place(-1, 10, 10) == Placement::overhanging);
    CHECK(place(1, 10, 10) == Placement::overhanging);
    CHECK(place(-9, 10, 10) == Placement::overhanging);
    CHECK(place(-10, 10, 10) == Placement::outside);
    CHECK(place(9, 10, 10) == Placement::overhanging);
    CHECK(place(10, 10, 10) == Placement::outside);
    CHECK(place(0, 10, 4) == Placement::overhanging);
}

void the_ends_of_64_bits_are_outside() {
    for (const std::int64_t extent : {std::int64_t{1}, std::int64_t{4096}, most}) {
        CHECK(place(least, 32768, extent) == Placement::outside);
        CHECK(place(most, 32768, extent) == Placement::outside);
    }
}

void an_image_without_pixels_has_no_window() {
    for (std::int64_t corner = -4; corner <= 4; ++corner) {
        CHECK(place(corner, 4, 0) == Placement::outside);
    }
}

void an_index_outside_becomes_the_nearest_inside() {
    CHECK(nearest_inside(-3, 5) == 0);
    CHECK(nearest_inside(4, 5) == 4);
    CHECK(nearest_inside(5, 5) == 4);
}

void negative_frequencies_stand_at_the_end() {
    CHECK(place_of_frequency(3, 8) == 3);
    CHECK(place_of_frequency(-1, 8) == 7);
}

} // namespace

int main() {
    return testing::run(an_exact_fit_is_inside_and_one_pixel_further_hangs_over, the_ends_of_64_bits_are_outside,
                        an_image_without_pixels_has_no_window, an_index_outside_becomes_the_nearest_inside,
                        negative_frequencies_stand_at_the_end);
}
