// Functions of our own against the C library's in long double.
#include "cryobox/exact.hpp"

#include <cmath>

#include "check.hpp"

using namespace cryobox;

namespace {

constexpr long double last_bit = 0x1p-53L; // of numbers from 1/2 to 1

/// The larger error of sine and cosine.
long double error_of(double angle) {
    const exact::SineCosine found = exact::sine_cosine(angle);
    const auto wide = static_cast<long double>(angle);
    const long double alone = std::fabs(exact::sine(angle) - std::sin(wide));
    return std::fmax(alone,
                     std::fmax(std::fabs(found.sine - std::sin(wide)), std::fabs(found.cosine - std::cos(wide))));
}

void sine_and_cosine_are_within_three_last_bits() {
    long double worst = 0;
    constexpr int steps = 1000000;
    for (int i = 0; i < steps; ++i) {
        const double part = static_cast<double>(i) / steps - 0.5;
        for (const double range : {20.0, 4e5, 3e6}) {
            worst = std::fmax(worst, error_of(range * part));
        }
    }
    for (int quarter = -40000; quarter <= 40000; ++quarter) { // where one of both is almost 0
        worst = std::fmax(worst, error_of(quarter * (exact::pi / 2)));
        worst = std::fmax(worst, error_of(std::nextafter(quarter * (exact::pi / 2), 1e9)));
    }
    CHECK(worst < 3 * last_bit);
}

void arcsine_and_exponential_are_within_a_few_last_bits() {
    long double worst = 0;
    long double worst_part = 0;
    for (int i = 0; i <= 1000000; ++i) {
        const double part = static_cast<double>(i) / 500000 - 1;
        worst = std::fmax(worst, std::fabs(exact::arcsine(part) - std::asin(static_cast<long double>(part))));
        const long double wanted = std::exp(static_cast<long double>(700 * part));
        worst_part = std::fmax(worst_part, std::fabs(exact::exponential(700 * part) - wanted) / wanted);
    }
    CHECK(worst < 6 * last_bit);
    CHECK(worst_part < 2 * last_bit);
    CHECK(exact::exponential(-1e9) == 0);
    CHECK(exact::exponential(0) == 1);
    CHECK(std::isinf(exact::exponential(1e9)));
    CHECK(std::isnan(exact::exponential(std::nan(""))));
    CHECK(std::isnan(exact::arcsine(1.1)));
    CHECK(exact::arcsine(-0.1) == -exact::arcsine(0.1));
}

void quarters_of_a_turn_are_exact() {
    CHECK(exact::sine_cosine(0).sine == 0);
    CHECK(exact::sine_cosine(0).cosine == 1);
    CHECK(exact::sine_cosine(-0.5).sine == -exact::sine_cosine(0.5).sine);
    CHECK(std::fabs(exact::of_turns(0.25).cosine) < 1e-16);
    CHECK(exact::of_turns(1e9 + 0.25).sine == 1);
}

} // namespace

int main() {
    return testing::run(sine_and_cosine_are_within_three_last_bits, arcsine_and_exponential_are_within_a_few_last_bits,
                        quarters_of_a_turn_are_exact);
}
