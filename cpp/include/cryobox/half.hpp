// float32 <-> float16 in plain integer arithmetic, IEEE round to nearest even: the same bits as F16C and NumPy.
// Always inlined, and calling nothing of the library, so that a build of one function for AVX2 never becomes
// everyone's.
#pragma once

#include <cstdint>

#include "cryobox/image.hpp"

namespace cryobox {

/// Nearest float16; beyond its range infinity, as IEEE wants (clamp before, where that is not).
[[gnu::always_inline]] constexpr std::uint16_t half_bits(std::uint32_t bits) noexcept {
    const std::uint32_t sign = bits & 0x80000000U;
    const std::uint32_t magnitude = bits ^ sign;
    // Subnormal result: adding 0.5 lets the float unit shift and round, as the last bit of 0.5f is 2^-24.
    const std::uint32_t small =
        __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, magnitude) + 0.5F) - 0x3F000000U;
    // Normal result: move the exponent's bias from 127 to 15 and round the 13 bits that go.
    const std::uint32_t normal = (magnitude - 0x38000000U + 0xFFFU + (magnitude >> 13U & 1U)) >> 13U;
    const std::uint32_t special = magnitude > 0x7F800000U ? 0x7E00U | (magnitude >> 13U & 0x3FFU) : 0x7C00U;
    std::uint32_t result = magnitude < 0x38800000U ? small : normal;
    result = magnitude >= 0x47800000U ? special : result;
    return static_cast<std::uint16_t>(result | sign >> 16U);
}

/// Exact.
[[gnu::always_inline]] constexpr std::uint32_t float_bits(std::uint16_t half) noexcept {
    const std::uint32_t sign = (half & 0x8000U) << 16U;
    const std::uint32_t shifted = (half & 0x7FFFU) << 13U;
    const std::uint32_t exponent = shifted & 0x0F800000U;
    const std::uint32_t normal = shifted + 0x38000000U;
    // Subnormal: 2^-14 plus the fraction is a normal float; taking 2^-14 off again is exact.
    const std::uint32_t small = __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, shifted + 0x38800000U) -
                                                                      __builtin_bit_cast(float, 0x38800000U));
    std::uint32_t result = exponent == 0 ? small : normal;
    result = exponent == 0x0F800000U ? shifted + 0x70000000U : result;
    return result | sign;
}

[[gnu::always_inline]] constexpr Half to_half(float value) noexcept {
    return Half{half_bits(__builtin_bit_cast(std::uint32_t, value))};
}

[[gnu::always_inline]] constexpr float to_float(Half value) noexcept {
    return __builtin_bit_cast(float, float_bits(value.bits));
}

} // namespace cryobox
