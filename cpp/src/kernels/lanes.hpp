// Eight lanes, whatever the registers hold: the compiler cuts them into what the instruction set has.
#pragma once

#include <cstdint>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cryobox/half.hpp"
#include "cryobox/image.hpp"
#include "cryobox/kernels.hpp"

namespace cryobox {
namespace {

using F8 [[gnu::vector_size(32)]] = float;
using D4 [[gnu::vector_size(32)]] = double; // four complex numbers, each moved as a whole
using D2 [[gnu::vector_size(16)]] = double;
using I8 [[gnu::vector_size(32)]] = std::int32_t;
using U8 [[gnu::vector_size(32)]] = std::uint32_t;
using U16x8 [[gnu::vector_size(16)]] = std::uint16_t;
using S16x8 [[gnu::vector_size(16)]] = std::int16_t;
using U8x8 [[gnu::vector_size(8)]] = std::uint8_t;
using S8x8 [[gnu::vector_size(8)]] = std::int8_t;
constexpr Index lanes = 8;
static_assert(room_for_columns(0) == 2 * lanes); // a group begins anywhere, and tables end with whole ones

#define CRYOBOX_INLINE [[gnu::always_inline]] inline

template <class V>
CRYOBOX_INLINE V load(const void* from) noexcept {
    V value;
    __builtin_memcpy(&value, from, sizeof(V));
    return value;
}

template <class V>
CRYOBOX_INLINE void store(void* to, V value) noexcept {
    __builtin_memcpy(to, &value, sizeof(V));
}

// Eight doubles. In two registers for AVX2, as GCC 12 keeps vectors that are wider than the instruction set's in memory
// there, and sums took four times as long; the plain build does well with one wide vector.
#if defined(__AVX2__) && !defined(__AVX512F__)
#define CRYOBOX_TWO_REGISTERS
constexpr Index native = 4;
#else
constexpr Index native = 8;
#endif
using DN [[gnu::vector_size(native * sizeof(double))]] = double;
using FN [[gnu::vector_size(native * sizeof(float))]] = float;
using UN [[gnu::vector_size(native * sizeof(std::uint64_t))]] = std::uint64_t;

struct D8 {
    DN part[lanes / native];

    CRYOBOX_INLINE double operator[](Index lane) const noexcept { return part[lane / native][lane % native]; }
    CRYOBOX_INLINE D8& operator+=(const D8& other) noexcept {
        for (Index i = 0; i < lanes / native; ++i) {
            part[i] += other.part[i];
        }
        return *this;
    }
    CRYOBOX_INLINE D8& operator-=(const D8& other) noexcept {
        for (Index i = 0; i < lanes / native; ++i) {
            part[i] -= other.part[i];
        }
        return *this;
    }
    CRYOBOX_INLINE D8& operator*=(const D8& other) noexcept {
        for (Index i = 0; i < lanes / native; ++i) {
            part[i] *= other.part[i];
        }
        return *this;
    }
};

CRYOBOX_INLINE D8 all(double value) noexcept {
    D8 result;
    for (DN& part : result.part) {
        part = DN{} + value;
    }
    return result;
}
CRYOBOX_INLINE D8 operator+(D8 a, const D8& b) noexcept { return a += b; }
CRYOBOX_INLINE D8 operator-(D8 a, const D8& b) noexcept { return a -= b; }
CRYOBOX_INLINE D8 operator*(D8 a, const D8& b) noexcept { return a *= b; }
CRYOBOX_INLINE D8 operator+(const D8& a, double b) noexcept { return a + all(b); }
CRYOBOX_INLINE D8 operator*(const D8& a, double b) noexcept { return a * all(b); }

CRYOBOX_INLINE D8 widen(F8 v) noexcept {
#ifdef CRYOBOX_TWO_REGISTERS
    return {{__builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), DN),
             __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), DN)}};
#elif defined(__AVX512F__) // GCC 12 widens halves and joins them
    const __m512d value = _mm512_maskz_cvtps_pd(0xFF, load<__m256>(&v));
    return {{load<DN>(&value)}};
#else
    return {{__builtin_convertvector(v, DN)}};
#endif
}
CRYOBOX_INLINE F8 narrow(const D8& v) noexcept {
#ifdef CRYOBOX_TWO_REGISTERS
    return __builtin_shufflevector(__builtin_convertvector(v.part[0], FN), __builtin_convertvector(v.part[1], FN), 0, 1,
                                   2, 3, 4, 5, 6, 7);
#else
    return __builtin_convertvector(v.part[0], F8);
#endif
}
CRYOBOX_INLINE F8 as_float(U8 bits) noexcept { return load<F8>(&bits); }
CRYOBOX_INLINE U8 as_bits(F8 value) noexcept { return load<U8>(&value); }

/// The smaller of each pair, `b` where one is nan.
CRYOBOX_INLINE F8 smaller(F8 a, F8 b) noexcept {
#ifdef __AVX2__ // GCC 12 compares and blends otherwise
    const __m256 value = _mm256_min_ps(load<__m256>(&a), load<__m256>(&b));
    return load<F8>(&value);
#else
    return a < b ? a : b;
#endif
}
CRYOBOX_INLINE F8 larger(F8 a, F8 b) noexcept {
#ifdef __AVX2__
    const __m256 value = _mm256_max_ps(load<__m256>(&a), load<__m256>(&b));
    return load<F8>(&value);
#else
    return a > b ? a : b;
#endif
}

CRYOBOX_INLINE D4 as_numbers(F8 value) noexcept { return load<D4>(&value); }
CRYOBOX_INLINE F8 as_floats(D4 value) noexcept { return load<F8>(&value); }

CRYOBOX_INLINE double total(D8 v) noexcept { return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])); }

CRYOBOX_INLINE F8 from_half(U16x8 half) noexcept {
#ifdef __F16C__
    const __m256 value = _mm256_cvtph_ps(load<__m128i>(&half));
    return load<F8>(&value);
#else
    U8 bits{};
    for (Index i = 0; i < lanes; ++i) {
        bits[i] = float_bits(half[i]);
    }
    return as_float(bits);
#endif
}

CRYOBOX_INLINE U16x8 to_half(F8 value) noexcept {
#ifdef __F16C__
    const __m128i half = _mm256_cvtps_ph(load<__m256>(&value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return load<U16x8>(&half);
#else
    const U8 bits = as_bits(value);
    U16x8 half{};
    for (Index i = 0; i < lanes; ++i) {
        half[i] = half_bits(bits[i]);
    }
    return half;
#endif
}

CRYOBOX_INLINE U16x8 swap(U16x8 v) noexcept { return (v << 8) | (v >> 8); }
CRYOBOX_INLINE U8 swap(U8 v) noexcept {
    v = ((v << 8) & 0xFF00FF00U) | ((v >> 8) & 0x00FF00FFU);
    return (v << 16) | (v >> 16);
}

CRYOBOX_INLINE F8 load_some(const float* from, Index count) noexcept {
    F8 value{};
    __builtin_memcpy(&value, from, static_cast<std::size_t>(count) * sizeof(float));
    return value;
}

// From place 8 - n on: n lanes that are kept, then ones that become 0.
constexpr auto kept = ~std::uint64_t{0};
constexpr std::uint64_t kept_doubles[2 * lanes] = {kept, kept, kept, kept, kept, kept, kept, kept};
constexpr auto kept_float = ~std::uint32_t{0};
constexpr std::uint32_t kept_floats[2 * lanes] = {kept_float, kept_float, kept_float, kept_float,
                                                  kept_float, kept_float, kept_float, kept_float};

CRYOBOX_INLINE F8 keep_first(F8 value, Index count) noexcept {
    return as_float(as_bits(value) & load<U8>(kept_floats + lanes - count));
}
CRYOBOX_INLINE D8 keep_first(D8 value, Index count) noexcept {
    for (Index i = 0; i < lanes / native; ++i) {
        const UN bits = load<UN>(&value.part[i]) & load<UN>(kept_doubles + lanes - count + i * native);
        value.part[i] = load<DN>(&bits);
    }
    return value;
}

#ifdef CRYOBOX_TWO_REGISTERS
constexpr D8 lane_numbers = {{{0, 1, 2, 3}, {4, 5, 6, 7}}};
#else
constexpr D8 lane_numbers = {{{0, 1, 2, 3, 4, 5, 6, 7}}};
#endif

/// Calls `full(x)` for each whole group of eight columns of [begin, end), then `rest(x, count)` for what is left.
template <class Full, class Rest>
CRYOBOX_INLINE void in_groups(Index begin, Index end, const Full& full, const Rest& rest) noexcept {
    Index x = begin;
    for (; x + lanes <= end; x += lanes) {
        full(x);
    }
    if (x < end) {
        rest(x, end - x);
    }
}

// Eight doubles in adjacent places.
CRYOBOX_INLINE D8 load_wide(const double* from) noexcept {
#ifdef CRYOBOX_TWO_REGISTERS
    return {{load<DN>(from), load<DN>(from + native)}};
#else
    return {{load<DN>(from)}};
#endif
}
CRYOBOX_INLINE void store_wide(double* to, const D8& value) noexcept {
    for (Index i = 0; i < lanes / native; ++i) {
        store(to + i * native, value.part[i]);
    }
}

} // namespace
} // namespace cryobox
