// float16 conversions: every half there and back, and every float32 near a rounding boundary.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "check.hpp"
#include "cryobox/half.hpp"

using namespace cryobox;

namespace {

double exact(std::uint16_t bits) {
    const int exponent = static_cast<int>(bits >> 10U & 0x1FU);
    const int fraction = static_cast<int>(bits & 0x3FFU);
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return (bits & 0x8000U) != 0 ? -magnitude : magnitude;
}

void every_finite_half_has_its_value_and_comes_back() {
    for (std::uint32_t bits = 0; bits <= 0xFFFFU; ++bits) {
        const Half half{static_cast<std::uint16_t>(bits)};
        if ((bits & 0x7C00U) == 0x7C00U) {
            continue;
        }
        const float value = to_float(half);
        CHECK(static_cast<double>(value) == exact(half.bits));
        CHECK(to_half(value).bits == half.bits);
    }
}

void between_two_halves_the_nearer_wins_and_a_tie_goes_to_the_even_one() {
    for (std::uint16_t low = 0; low < 0x7BFFU; ++low) {
        const auto high = static_cast<std::uint16_t>(low + 1U);
        const auto middle = static_cast<float>((exact(low) + exact(high)) / 2); // 12 bits: exact in float32
        const float limit = std::numeric_limits<float>::infinity();
        CHECK(to_half(middle).bits == (low % 2 == 0 ? low : high));
        CHECK(to_half(std::nextafter(middle, limit)).bits == high);
        CHECK(to_half(std::nextafter(middle, -limit)).bits == low);
        CHECK(to_half(-middle).bits == (to_half(middle).bits | 0x8000U));
    }
}

void what_is_beyond_the_range_is_infinite_and_nan_stays_nan() {
    const float infinity = std::numeric_limits<float>::infinity();
    CHECK(to_half(65519.996F).bits == 0x7BFFU);
    CHECK(to_half(65520.0F).bits == 0x7C00U);
    CHECK(to_half(-infinity).bits == 0xFC00U);
    CHECK(std::isinf(to_float(Half{0x7C00U})));
    CHECK(std::isnan(to_float(Half{0x7E01U})));
    CHECK((to_half(std::numeric_limits<float>::quiet_NaN()).bits & 0x7FFFU) > 0x7C00U);
    CHECK(to_half(std::numeric_limits<float>::denorm_min()).bits == 0);
}

} // namespace

int main() {
    return testing::run(every_finite_half_has_its_value_and_comes_back,
                        between_two_halves_the_nearer_wins_and_a_tie_goes_to_the_even_one,
                        what_is_beyond_the_range_is_infinite_and_nan_stays_nan);
}
