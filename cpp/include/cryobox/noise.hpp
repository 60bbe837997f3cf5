// Gaussian noise for pixels that are replaced: a function of a key and a pixel's number, the same on every machine, as
// it is made of whole numbers, additions, multiplications, divisions and roots alone.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "cryobox/image.hpp"

namespace cryobox {

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
constexpr std::uint64_t mixed(std::uint64_t z) noexcept {
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
}

/// The natural logarithm of a positive normal number, to about a bit: log(m * 2^e) with m near 1, as twice the series
/// of the area tangent of (m - 1) / (m + 1).
constexpr double logarithm(double value) noexcept {
    constexpr std::uint64_t mantissa = 0xFFFFFFFFFFFFFU;
    constexpr int bias = 1023;
    const auto bits = std::bit_cast<std::uint64_t>(value);
    int exponent = static_cast<int>(bits >> 52U) - bias;
    auto near_1 = std::bit_cast<double>((bits & mantissa) | (std::uint64_t{bias} << 52U));
    if (near_1 > std::numbers::sqrt2) {
        near_1 *= 0.5;
        ++exponent;
    }
    const double z = (near_1 - 1) / (near_1 + 1);
    const double square = z * z; // below 0.03: twelve terms are all that a double holds
    double sum = 0;
    for (int n = 23; n >= 1; n -= 2) {
        sum = sum * square + 1.0 / n;
    }
    return 2 * z * sum + exponent * std::numbers::ln2;
}

/// Number `which` of a stream: 64 bits.
constexpr std::uint64_t draw(std::uint64_t stream, std::uint64_t which) noexcept {
    constexpr std::uint64_t golden = 0x9E3779B97F4A7C15U;
    return mixed(stream + golden * (which + 1));
}

/// The same between 0 and 1.
constexpr double uniform(std::uint64_t stream, std::uint64_t which) noexcept {
    return (static_cast<double>(draw(stream, which) >> 11U) + 0.5) * 0x1p-53;
}

/// The Gaussian of mean 0 and sd 1 for one pixel: Marsaglia's polar method, every pixel with draws of its own.
inline double gaussian(std::uint64_t stream, std::uint64_t pixel) noexcept {
    constexpr std::uint64_t most = 32; // pairs; one in five misses the circle
    for (std::uint64_t pair = 0; pair < most; ++pair) {
        const double x = 2 * uniform(stream, 2 * (most * pixel + pair)) - 1;
        const double y = 2 * uniform(stream, 2 * (most * pixel + pair) + 1) - 1;
        const double square = x * x + y * y;
        if (square > 0 && square < 1) {
            return x * std::sqrt(-2 * logarithm(square) / square);
        }
    }
    return 0;
}

/// The stream of an image of `size`, of a window with this key.
constexpr std::uint64_t noise_stream(std::uint64_t key, Index size) noexcept {
    return mixed(key + static_cast<std::uint64_t>(size));
}

} // namespace cryobox
