// The passes over pixels. This file is compiled once per instruction set, with CRYOBOX_BUILD its name; it calls no
// function of a header that is not inlined always, as the linker merges such functions between builds (an AVX2 copy
// would then run on a processor without AVX2).
#include <cstdint>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cryobox/half.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/rules.hpp"

#ifndef CRYOBOX_BUILD
#define CRYOBOX_BUILD baseline
#endif
#define CRYOBOX_TEXT_OF(name) #name
#define CRYOBOX_TEXT(name) CRYOBOX_TEXT_OF(name)

namespace cryobox {
namespace {

// Eight lanes, whatever the registers hold: the compiler cuts them into what the instruction set has.
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

// Eight integers as floats. By hand for AVX2, as GCC 12 widens them in halves, through memory.
CRYOBOX_INLINE F8 to_floats(S8x8 v) noexcept {
#ifdef __AVX2__
    const __m256 value =
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&v))));
    return load<F8>(&value);
#else
    return __builtin_convertvector(__builtin_convertvector(v, I8), F8);
#endif
}
CRYOBOX_INLINE F8 to_floats(U8x8 v) noexcept {
#ifdef __AVX2__
    const __m256 value =
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&v))));
    return load<F8>(&value);
#else
    return __builtin_convertvector(__builtin_convertvector(v, I8), F8);
#endif
}
CRYOBOX_INLINE F8 to_floats(S16x8 v) noexcept {
#ifdef __AVX2__
    const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(load<__m128i>(&v)));
    return load<F8>(&value);
#else
    return __builtin_convertvector(__builtin_convertvector(v, I8), F8);
#endif
}
CRYOBOX_INLINE F8 to_floats(U16x8 v) noexcept {
#ifdef __AVX2__
    const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(load<__m128i>(&v)));
    return load<F8>(&value);
#else
    return __builtin_convertvector(__builtin_convertvector(v, I8), F8);
#endif
}

/// Eight pixels of one type and byte order as floats; every type fits a float exactly.
template <PixelType type, bool swapped>
CRYOBOX_INLINE F8 pixels(const std::byte* from) noexcept {
    if constexpr (type == PixelType::int8) {
        return to_floats(load<S8x8>(from));
    } else if constexpr (type == PixelType::uint8) {
        return to_floats(load<U8x8>(from));
    } else if constexpr (type == PixelType::float32) {
        const U8 bits = load<U8>(from);
        return as_float(swapped ? swap(bits) : bits);
    } else {
        auto raw = load<U16x8>(from);
        if constexpr (swapped) {
            raw = swap(raw);
        }
        if constexpr (type == PixelType::float16) {
            return from_half(raw);
        } else if constexpr (type == PixelType::uint16) {
            return to_floats(raw);
        } else {
            return to_floats(load<S16x8>(&raw));
        }
    }
}

/// The last `count` < 8 pixels of a row; the lanes beyond are 0. Reads nothing beyond the row.
template <PixelType type, bool swapped>
CRYOBOX_INLINE F8 last_pixels(const std::byte* from, Index count) noexcept {
    constexpr Index step = bytes_per_pixel(type);
    std::byte padded[lanes * step] = {};
    __builtin_memcpy(padded, from, static_cast<std::size_t>(count * step));
    return pixels<type, swapped>(padded);
}

/// Ask for the row after next: rows lie thousands of bytes apart, where no processor expects them.
CRYOBOX_INLINE void prefetch_row(const ImageView& view, Index y, Index bytes) noexcept {
    constexpr Index rows_ahead = 2;
    constexpr Index line = 64;
    if (y + rows_ahead < view.height) {
        const std::byte* row = view.data + (y + rows_ahead) * view.row_stride;
        for (Index x = 0; x < bytes; x += line) {
            __builtin_prefetch(row + x);
        }
    }
}

/// The sum of all pixels of a view, in lanes whose order is part of the result. `each(y, x, value, count)` gets every
/// group: `count` pixels of row y from x on, as floats.
template <PixelType type, bool swapped, class Each>
CRYOBOX_INLINE double sum_of(const ImageView& view, const Each& each) noexcept {
    constexpr Index step = bytes_per_pixel(type);
    D8 even{};
    D8 odd{};
    for (Index y = 0; y < view.height; ++y) {
        const std::byte* row = view.data + y * view.row_stride;
        prefetch_row(view, y, view.width * step);
        const auto group = [&](Index x) {
            const F8 value = pixels<type, swapped>(row + x * step);
            each(y, x, value, lanes);
            return widen(value);
        };
        Index x = 0;
        for (; x + 2 * lanes <= view.width; x += 2 * lanes) {
            even += group(x);
            odd += group(x + lanes);
        }
        if (x + lanes <= view.width) {
            even += group(x);
            x += lanes;
        }
        if (x < view.width) {
            const F8 value = last_pixels<type, swapped>(row + x * step, view.width - x);
            each(y, x, value, view.width - x);
            odd += widen(value);
        }
    }
    return total(even + odd);
}

template <PixelType type, bool swapped>
void convert_from(const ImageView& view, double level, float* out, Index stride) noexcept {
    constexpr Index step = bytes_per_pixel(type);
    const D8 levels = all(level);
    for (Index y = 0; y < view.height; ++y) {
        const std::byte* row = view.data + y * view.row_stride;
        float* to = out + y * stride;
        Index x = 0;
        for (; x + lanes <= view.width; x += lanes) {
            store(to + x, narrow(widen(pixels<type, swapped>(row + x * step)) - levels));
        }
        if (x < view.width) {
            const F8 value = narrow(widen(last_pixels<type, swapped>(row + x * step, view.width - x)) - levels);
            __builtin_memcpy(to + x, &value, static_cast<std::size_t>(view.width - x) * sizeof(float));
        }
    }
}

/// Two groups of eight numbers as the parts of eight complex ones, and back.
CRYOBOX_INLINE void store_pairs(float* to, F8 real, F8 imaginary) noexcept {
#ifndef __AVX2__ // four by four, for which there are instructions
    using F4 [[gnu::vector_size(16)]] = float;
    for (Index half = 0; half < lanes; half += lanes / 2) {
        F4 r;
        F4 i;
        __builtin_memcpy(&r, reinterpret_cast<const char*>(&real) + static_cast<std::size_t>(half) * sizeof(float),
                         sizeof(F4));
        __builtin_memcpy(&i, reinterpret_cast<const char*>(&imaginary) + static_cast<std::size_t>(half) * sizeof(float),
                         sizeof(F4));
        store(to + 2 * half, __builtin_shufflevector(r, i, 0, 4, 1, 5));
        store(to + 2 * half + lanes / 2, __builtin_shufflevector(r, i, 2, 6, 3, 7));
    }
#else
    store(to, __builtin_shufflevector(real, imaginary, 0, 8, 1, 9, 2, 10, 3, 11));
    store(to + lanes, __builtin_shufflevector(real, imaginary, 4, 12, 5, 13, 6, 14, 7, 15));
#endif
}

template <PixelType type, bool swapped>
void convert_pair_from(const ImageView& view, double level, float* both) noexcept {
    constexpr Index step = bytes_per_pixel(type);
    const D8 levels = all(level);
    const std::byte* first = view.data;
    const std::byte* second = view.data + view.row_stride;
    Index x = 0;
    for (; x + lanes <= view.width; x += lanes) {
        store_pairs(both + 2 * x, narrow(widen(pixels<type, swapped>(first + x * step)) - levels),
                    narrow(widen(pixels<type, swapped>(second + x * step)) - levels));
    }
    if (const Index left = view.width - x; left > 0) {
        float pairs[2 * lanes];
        store_pairs(pairs, narrow(widen(last_pixels<type, swapped>(first + x * step, left)) - levels),
                    narrow(widen(last_pixels<type, swapped>(second + x * step, left)) - levels));
        __builtin_memcpy(both + 2 * x, pairs, 2 * static_cast<std::size_t>(left) * sizeof(float));
    }
}

/// Calls `work.template operator()<type, swapped>()` for the type of the view: once per view, not per pixel.
template <class Work>
CRYOBOX_INLINE auto visit(const ImageView& view, const Work& work) noexcept {
    switch (view.type) {
    case PixelType::int8:
        return work.template operator()<PixelType::int8, false>();
    case PixelType::uint8:
        return work.template operator()<PixelType::uint8, false>();
    case PixelType::int16:
        return view.swapped ? work.template operator()<PixelType::int16, true>()
                            : work.template operator()<PixelType::int16, false>();
    case PixelType::uint16:
        return view.swapped ? work.template operator()<PixelType::uint16, true>()
                            : work.template operator()<PixelType::uint16, false>();
    case PixelType::float16:
        return view.swapped ? work.template operator()<PixelType::float16, true>()
                            : work.template operator()<PixelType::float16, false>();
    case PixelType::float32:
        break;
    }
    return view.swapped ? work.template operator()<PixelType::float32, true>()
                        : work.template operator()<PixelType::float32, false>();
}

double sum(const ImageView& view) noexcept {
    return visit(view, [&]<PixelType type, bool swapped>() {
        return sum_of<type, swapped>(view, [](Index, Index, F8, Index) {});
    });
}

double take(const ImageView& view, float* out, Index stride) noexcept {
    const auto keep = [&](Index y, Index x, F8 value, Index count) {
        float* to = out + y * stride + x;
        if (count == lanes) {
            store(to, value);
        } else {
            __builtin_memcpy(to, &value, static_cast<std::size_t>(count) * sizeof(float));
        }
    };
    return visit(view, [&]<PixelType type, bool swapped>() { return sum_of<type, swapped>(view, keep); });
}

void convert(const ImageView& view, double level, float* out, Index stride) noexcept {
    visit(view, [&]<PixelType type, bool swapped>() { convert_from<type, swapped>(view, level, out, stride); });
}

void convert_pair(const ImageView& view, double level, float* both) noexcept {
    visit(view, [&]<PixelType type, bool swapped>() { convert_pair_from<type, swapped>(view, level, both); });
}

// The steps of a Fourier crop. A complex number is two adjacent floats, a vector holds four.

CRYOBOX_INLINE F8 exchange(F8 v) noexcept { return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6); }
CRYOBOX_INLINE F8 reverse(F8 v) noexcept { return __builtin_shufflevector(v, v, 6, 7, 4, 5, 2, 3, 0, 1); }
CRYOBOX_INLINE F8 negate(F8 v, U8 signs) noexcept { return as_float(as_bits(v) ^ signs); }
constexpr U8 imaginary_parts = {0, 1U << 31U, 0, 1U << 31U, 0, 1U << 31U, 0, 1U << 31U};
constexpr U8 real_parts = {1U << 31U, 0, 1U << 31U, 0, 1U << 31U, 0, 1U << 31U, 0};
constexpr Index numbers = 4; // complex ones in a vector

void interleave(const float* first, const float* second, Index length, float* both) noexcept {
    for (Index x = 0; x < length; ++x) {
        both[2 * x] = first[x];
        both[2 * x + 1] = second[x];
    }
}

void separate(const float* both, Index length, float* first, float* second) noexcept {
    Index x = 0;
    for (; x + lanes <= length; x += lanes) {
        const F8 low = load<F8>(both + 2 * x);
        const F8 high = load<F8>(both + 2 * x + lanes);
        store(first + x, __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14));
        store(second + x, __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15));
    }
    for (; x < length; ++x) {
        first[x] = both[2 * x];
        second[x] = both[2 * x + 1];
    }
}

void split(const float* both, Index length, Index columns, float* to, Index stride) noexcept {
    const auto one = [&](Index k, Index mirrored) {
        const float* plus = both + 2 * k;
        const float* minus = both + 2 * mirrored;
        float* place = to + 2 * k * stride;
        place[0] = plus[0] + minus[0];
        place[1] = plus[1] - minus[1];
        place[2] = plus[1] + minus[1];
        place[3] = minus[0] - plus[0];
    };
    one(0, 0);
    Index k = 1;
    for (; k + numbers <= columns; k += numbers) {
        const F8 plus = load<F8>(both + 2 * k);
        const F8 minus = reverse(load<F8>(both + 2 * (length - k - numbers + 1)));
        const D4 first = as_numbers(plus + negate(minus, imaginary_parts));
        const D4 second = as_numbers(exchange(minus) + negate(exchange(plus), imaginary_parts));
        float* place = to + 2 * k * stride;
        store(place, __builtin_shufflevector(first, second, 0, 4));
        store(place + 2 * stride, __builtin_shufflevector(first, second, 1, 5));
        store(place + 4 * stride, __builtin_shufflevector(first, second, 2, 6));
        store(place + 6 * stride, __builtin_shufflevector(first, second, 3, 7));
    }
    for (; k < columns; ++k) {
        one(k, length - k);
    }
}

CRYOBOX_INLINE void scaled_copy(const float* from, Index count, float scale, float* to) noexcept {
    Index x = 0;
    for (; x + lanes <= count; x += lanes) {
        store(to + x, load<F8>(from + x) * scale);
    }
    for (; x < count; ++x) {
        to[x] = from[x] * scale;
    }
}

void crop_column(const float* column, Index box, float* cropped, Index size, float scale) noexcept {
    const Index half = size / 2;
    scaled_copy(column, 2 * half, scale, cropped);
    const float* plus = column + 2 * half;
    const float* minus = column + 2 * (box - half);
    cropped[2 * half] = (plus[0] + minus[0]) * 0.5F * scale;
    cropped[2 * half + 1] = (plus[1] + minus[1]) * 0.5F * scale;
    scaled_copy(minus + 2, 2 * (half - 1), scale, cropped + 2 * (half + 1));
}

void join(const float* columns, Index stride, Index size, float* both) noexcept {
    const Index half = size / 2;
    both[0] = columns[0];
    both[1] = columns[2];
    Index k = 1;
    for (; k + numbers <= half; k += numbers) {
        const float* place = columns + 2 * k * stride;
        const auto low = __builtin_shufflevector(load<D2>(place), load<D2>(place + 2 * stride), 0, 1, 2, 3);
        const auto high =
            __builtin_shufflevector(load<D2>(place + 4 * stride), load<D2>(place + 6 * stride), 0, 1, 2, 3);
        const F8 first = as_floats(__builtin_shufflevector(low, high, 0, 2, 4, 6));
        const F8 second = exchange(as_floats(__builtin_shufflevector(low, high, 1, 3, 5, 7)));
        store(both + 2 * k, first + negate(second, real_parts));
        store(both + 2 * (size - k - numbers + 1), reverse(second + negate(first, imaginary_parts)));
    }
    for (; k < half; ++k) {
        const float* place = columns + 2 * k * stride;
        both[2 * k] = place[0] - place[3];
        both[2 * k + 1] = place[1] + place[2];
        both[2 * (size - k)] = place[0] + place[3];
        both[2 * (size - k) + 1] = place[2] - place[1];
    }
    both[2 * half] = columns[2 * half * stride];
    both[2 * half + 1] = columns[2 * half * stride + 2];
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

/// `count` < 8 pixels of row `y` from `x` on; the lanes beyond are 0. Reads nothing beyond the image.
CRYOBOX_INLINE F8 load_some(const float* image, Index size, Index y, Index x, Index count) noexcept {
    const Index at = y * size + x;
    return at + lanes <= size * size ? keep_first(load<F8>(image + at), count) : load_some(image + at, count);
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

double root_mean_square(const float* image, Index size) noexcept {
    D8 value{};
    D8 square{};
    const Index pixels = size * size;
    const auto add = [&](D8 v) {
        value += v;
        square += v * v;
    };
    in_groups(
        0, pixels, [&](Index x) { add(widen(load<F8>(image + x))); },
        [&](Index x, Index count) { add(widen(load_some(image + x, count))); });
    const double mean = total(value) / static_cast<double>(pixels);
    const double variance = total(square) / static_cast<double>(pixels) - mean * mean;
    return variance > 0 ? __builtin_sqrt(variance) : 0;
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

/// `slope` times the column's distance from the center, for every column and a group's lanes beyond the last.
CRYOBOX_INLINE void tabulate(double slope, Index size, double* by_column) noexcept {
    const Index half = size / 2;
    for (Index x = 0; x < size + lanes; x += lanes) {
        store_wide(by_column + x, (lane_numbers + static_cast<double>(x - half)) * slope);
    }
}

/// The sums of the background; `before(y)` comes before row y is read.
template <class Before>
CRYOBOX_INLINE BackgroundSums sums_of(const float* image, const BackgroundRuns& background, const Beside& beside,
                                      const Before& before) noexcept {
    const Index size = background.size;
    const Index half = size / 2;
    double* by_column = beside.by_column;
    tabulate(1, size, by_column);
    D8 value{};
    D8 value_i{};
    D8 value_j{};
    D8 square{};
    for (Index y = 0; y < size; ++y) {
        beside.ahead.fetch();
        before(y);
        const float* row = image + y * size;
        D8 row_value{};
        const auto add = [&](D8 v, Index x) {
            row_value += v;
            value_j += v * load_wide(by_column + x);
            square += v * v;
        };
        const auto full = [&](Index x) { add(widen(load<F8>(row + x)), x); };
        const auto rest = [&](Index x, Index count) { add(widen(load_some(image, size, y, x, count)), x); };
        in_groups(0, background.first_run_end[y], full, rest);
        in_groups(background.second_run_begin[y], size, full, rest);
        value += row_value;
        value_i += row_value * static_cast<double>(y - half);
    }
    return BackgroundSums{
        .value = total(value), .value_i = total(value_i), .value_j = total(value_j), .square = total(square)};
}

BackgroundSums background_sums(const float* image, const BackgroundRuns& background, const Beside& beside) noexcept {
    return sums_of(image, background, beside, [](Index) {});
}

BackgroundSums subtract_level(float* image, double level, const BackgroundRuns& background,
                              const Beside& beside) noexcept {
    const D8 levels = all(level);
    return sums_of(image, background, beside, [&](Index y) {
        float* row = image + y * background.size;
        const auto full = [&](Index x) { store(row + x, narrow(widen(load<F8>(row + x)) - levels)); };
        const auto rest = [&](Index x, Index count) {
            const F8 v = narrow(widen(load_some(row + x, count)) - levels);
            __builtin_memcpy(row + x, &v, static_cast<std::size_t>(count) * sizeof(float));
        };
        in_groups(0, background.size, full, rest);
    });
}

BackgroundSums residual_sums(const float* image, const BackgroundRuns& background, const Plane& plane,
                             const Beside& beside) noexcept {
    const Index size = background.size;
    const Index half = size / 2;
    double* by_column = beside.by_column;
    tabulate(plane.slope_x, size, by_column);
    D8 value{};
    D8 square{};
    for (Index y = 0; y < size; ++y) {
        const float* row = image + y * size;
        beside.ahead.fetch();
        const D8 row_level = all(plane.level + plane.slope_y * static_cast<double>(y - half));
        const auto residual = [&](D8 v, Index x) { return v - (row_level + load_wide(by_column + x)); };
        const auto full = [&](Index x) {
            const D8 r = residual(widen(load<F8>(row + x)), x);
            value += r;
            square += r * r;
        };
        const auto rest = [&](Index x, Index count) {
            const D8 r = keep_first(residual(widen(load_some(image, size, y, x, count)), x), count);
            value += r;
            square += r * r;
        };
        in_groups(0, background.first_run_end[y], full, rest);
        in_groups(background.second_run_begin[y], size, full, rest);
    }
    return BackgroundSums{.value = total(value), .value_i = 0, .value_j = 0, .square = total(square)};
}

template <bool to_float16, bool has_shift>
ImageStatistics finish_into(const float* image, Index size, const Finish& finish, float* float32, Half* float16,
                            const Beside& beside) noexcept {
    const Index half = size / 2;
    const D8 shift = all(finish.shift);
    const D8 scale = all(finish.scale);
    const F8 limit = F8{} + largest_half;
    F8 low = F8{} + __builtin_inff();
    F8 high = F8{} - __builtin_inff();
    D8 deviation{};
    D8 square{};
    I8 beyond{};
    double* by_column = beside.by_column;
    tabulate(finish.plane.slope_x, size, by_column);
    for (Index y = 0; y < size; ++y) {
        const float* row = image + y * size;
        beside.ahead.fetch();
        const D8 row_level = all(finish.plane.level + finish.plane.slope_y * static_cast<double>(y - half));
        const auto finished = [&](D8 v, Index x) {
            return narrow((v - (row_level + load_wide(by_column + x))) * scale);
        };
        const auto from_shift = [&](F8 v) { return has_shift ? widen(v) - shift : widen(v); };
        // The statistics of the lanes that are set; `v` of the others repeats a set one and is kept out of the sums.
        const auto note = [&](F8 v, D8 d) {
            low = smaller(v, low);
            high = larger(v, high);
            deviation += d;
            square += d * d;
        };
        const auto as_half = [&](F8 v) {
            const F8 below = v > limit ? limit : v;
            return to_half(below < -limit ? -limit : below);
        };
        const auto full = [&](Index x) {
            const F8 v = finished(widen(load<F8>(row + x)), x);
            note(v, from_shift(v));
            if constexpr (to_float16) {
                beyond -= (v > limit) | (v < -limit);
                store(float16 + y * size + x, as_half(v));
            } else {
                store(float32 + y * size + x, v);
            }
        };
        const auto rest = [&](Index x, Index count) {
            F8 v = finished(widen(load_some(row + x, count)), x);
            const D8 d = keep_first(from_shift(v), count);
            for (Index lane = count; lane < lanes; ++lane) {
                v[lane] = v[0];
            }
            note(v, d);
            if constexpr (to_float16) {
                I8 outside = (v > limit) | (v < -limit);
                for (Index lane = count; lane < lanes; ++lane) {
                    outside[lane] = 0;
                }
                beyond -= outside;
                const U16x8 halves = as_half(v);
                __builtin_memcpy(static_cast<void*>(float16 + y * size + x), &halves,
                                 static_cast<std::size_t>(count) * sizeof(Half));
            } else {
                __builtin_memcpy(float32 + y * size + x, &v, static_cast<std::size_t>(count) * sizeof(float));
            }
        };
        in_groups(0, size, full, rest);
    }
    const double count = static_cast<double>(size) * static_cast<double>(size);
    const double mean = total(deviation) / count;
    const double variance = total(square) / count - mean * mean;
    ImageStatistics result;
    result.minimum = low[0];
    result.maximum = high[0];
    for (Index lane = 0; lane < lanes; ++lane) {
        result.minimum = low[lane] < result.minimum ? low[lane] : result.minimum;
        result.maximum = high[lane] > result.maximum ? high[lane] : result.maximum;
        result.clamped += beyond[lane];
    }
    result.mean = finish.shift + mean;
    result.standard_deviation = variance > 0 ? __builtin_sqrt(variance) : 0;
    result.finite = __builtin_isfinite(mean);
    return result;
}

ImageStatistics finish(const float* image, Index size, const Finish& finish, float* float32, Half* float16,
                       const Beside& beside) noexcept {
    const bool shifted = finish.shift != 0;
    if (float16 != nullptr) {
        return shifted ? finish_into<true, true>(image, size, finish, float32, float16, beside)
                       : finish_into<true, false>(image, size, finish, float32, float16, beside);
    }
    return shifted ? finish_into<false, true>(image, size, finish, float32, float16, beside)
                   : finish_into<false, false>(image, size, finish, float32, float16, beside);
}

} // namespace

namespace CRYOBOX_BUILD {
extern const Kernels kernels;
constinit const Kernels kernels = {.name = CRYOBOX_TEXT(CRYOBOX_BUILD),
                                   .sum = &sum,
                                   .take = &take,
                                   .convert = &convert,
                                   .convert_pair = &convert_pair,
                                   .interleave = &interleave,
                                   .separate = &separate,
                                   .split = &split,
                                   .crop_column = &crop_column,
                                   .join = &join,
                                   .root_mean_square = &root_mean_square,
                                   .background_sums = &background_sums,
                                   .subtract_level = &subtract_level,
                                   .residual_sums = &residual_sums,
                                   .finish = &finish};
} // namespace CRYOBOX_BUILD

} // namespace cryobox
