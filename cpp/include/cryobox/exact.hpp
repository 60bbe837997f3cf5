// Sine, cosine and what else the spectrum needs, from additions, multiplications, divisions and roots alone: those are
// rounded in one way everywhere, while the last bits of the C library's functions differ between machines. Plain
// functions of numbers: device code uses them as they are.
#pragma once

#include <cmath>
#include <numbers>

#ifdef __CUDACC__
#define CRYOBOX_EXACT __host__ __device__ inline
#else
#define CRYOBOX_EXACT inline
#endif

namespace cryobox::exact {

inline constexpr double pi = std::numbers::pi;

struct SineCosine {
    double sine;
    double cosine;
};

/// Both of an angle within a quarter of pi about 0: the series, to less than a last bit.
CRYOBOX_EXACT SineCosine of_small_angle(double r) noexcept {
    const double q = r * r;
    const double sine =
        q * (-1.0 / 6 +
             q * (1.0 / 120 +
                  q * (-1.0 / 5040 + q * (1.0 / 362880 + q * (-1.0 / 39916800 +
                                                              q * (1.0 / 6227020800 + q * (-1.0 / 1307674368000 +
                                                                                           q / 355687428096000)))))));
    const double cosine =
        q * (1.0 / 24 +
             q * (-1.0 / 720 +
                  q * (1.0 / 40320 +
                       q * (-1.0 / 3628800 + q * (1.0 / 479001600 + q * (-1.0 / 87178291200 + q / 20922789888000))))));
    return {.sine = r + r * sine, .cosine = (1 - 0.5 * q) + q * cosine};
}

/// Both of any angle, in radians. Up to 1.6 million the angle's multiples of pi / 2 are taken off exactly, in three
/// parts of pi / 2; beyond, the error is that of the angle's own last bits.
CRYOBOX_EXACT SineCosine sine_cosine(double angle) noexcept {
    const double n = std::floor(angle * 0x1.45f306dc9c883p-1 + 0.5);
    const double r = ((angle - n * 0x1.921fb544p+0) - n * 0x1.0b4611a6p-34) - n * 0x1.3198a2e037073p-69;
    const SineCosine small = of_small_angle(r);
    const double quadrant = n - 4 * std::floor(0.25 * n);
    if (quadrant == 0) {
        return small;
    }
    if (quadrant == 1) {
        return {.sine = small.cosine, .cosine = -small.sine};
    }
    if (quadrant == 2) {
        return {.sine = -small.sine, .cosine = -small.cosine};
    }
    return {.sine = -small.cosine, .cosine = small.sine};
}

/// Both of `turns` whole turns.
CRYOBOX_EXACT SineCosine of_turns(double turns) noexcept {
    return sine_cosine(2 * pi * (turns - std::floor(turns + 0.5)));
}

/// The sine of any angle, without a branch, so that compilers make vectors of it: the series up to a quarter turn. As
/// exact as above.
CRYOBOX_EXACT double sine(double angle) noexcept {
    constexpr double whole = 0x1.8p52; // added and taken off: what is left is a whole number
    const double n = (angle * std::numbers::inv_pi + whole) - whole;
    // Three parts of pi, and not the nearest double. NOLINTNEXTLINE(modernize-use-std-numbers)
    const double r = ((angle - n * 0x1.921fb544p+1) - n * 0x1.0b4611a6p-33) - n * 0x1.3198a2e037073p-68;
    const double odd = n - 2 * ((n * 0.5 + whole) - whole);
    const double q = r * r;
    double sum = 1.0 / 51090942171709440000.0;
    sum = -1.0 / 121645100408832000.0 + q * sum;
    sum = 1.0 / 355687428096000 + q * sum;
    sum = -1.0 / 1307674368000 + q * sum;
    sum = 1.0 / 6227020800 + q * sum;
    sum = -1.0 / 39916800 + q * sum;
    sum = 1.0 / 362880 + q * sum;
    sum = -1.0 / 5040 + q * sum;
    sum = 1.0 / 120 + q * sum;
    sum = -1.0 / 6 + q * sum;
    return (r + r * (q * sum)) * (1 - 2 * (odd * odd));
}

/// The angle within a quarter turn whose sine is `sine`; nan beyond 1. By Newton's method from half the angle, which is
/// at most pi / 4, where nothing cancels.
CRYOBOX_EXACT double arcsine(double sine) noexcept {
    const double half = sine / std::sqrt(2 * (1 + std::sqrt((1 - sine) * (1 + sine))));
    double angle = half;
    for (int i = 0; i < 6; ++i) {
        const SineCosine found = of_small_angle(angle);
        angle -= (found.sine - half) / found.cosine;
    }
    return 2 * angle;
}

/// e to the power of x; 0 and infinity beyond what a double holds.
CRYOBOX_EXACT double exponential(double x) noexcept {
    if (!(x > -745)) {
        return x <= -745 ? 0 : x;
    }
    if (x > 709.7) {
        return HUGE_VAL;
    }
    const double n = std::floor(x * std::numbers::log2e + 0.5);
    // Two parts of the logarithm of 2. NOLINTNEXTLINE(modernize-use-std-numbers)
    const double r = (x - n * 0x1.62e42fefa38p-1) - n * 0x1.ef35793c76730p-45;
    double sum = 1;
    for (int i = 14; i > 0; --i) {
        sum = 1 + sum * r / i;
    }
    return std::ldexp(sum, static_cast<int>(n));
}

} // namespace cryobox::exact
