// The passes over pixels. This file is compiled once per instruction set, with CRYOBOX_BUILD its name; it includes no
// header with functions that the linker could merge between builds (an AVX2 copy of a library function would then run
// on a processor without AVX2).
#include <cstdint>

#ifdef __F16C__
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
using D8 [[gnu::vector_size(64)]] = double;
using I8 [[gnu::vector_size(32)]] = std::int32_t;
using U8 [[gnu::vector_size(32)]] = std::uint32_t;
using U16x8 [[gnu::vector_size(16)]] = std::uint16_t;
using S16x8 [[gnu::vector_size(16)]] = std::int16_t;
using U8x8 [[gnu::vector_size(8)]] = std::uint8_t;
using S8x8 [[gnu::vector_size(8)]] = std::int8_t;
constexpr Index lanes = 8;

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

CRYOBOX_INLINE D8 widen(F8 value) noexcept { return __builtin_convertvector(value, D8); }
CRYOBOX_INLINE F8 narrow(D8 value) noexcept { return __builtin_convertvector(value, F8); }
CRYOBOX_INLINE F8 as_float(U8 bits) noexcept { return load<F8>(&bits); }
CRYOBOX_INLINE U8 as_bits(F8 value) noexcept { return load<U8>(&value); }

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

/// Eight pixels of one type and byte order as floats; every type fits a float exactly.
template <PixelType type, bool swapped>
CRYOBOX_INLINE F8 pixels(const std::byte* from) noexcept {
    if constexpr (type == PixelType::int8) {
        return __builtin_convertvector(__builtin_convertvector(load<S8x8>(from), I8), F8);
    } else if constexpr (type == PixelType::uint8) {
        return __builtin_convertvector(__builtin_convertvector(load<U8x8>(from), I8), F8);
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
            return __builtin_convertvector(__builtin_convertvector(raw, I8), F8);
        } else {
            return __builtin_convertvector(__builtin_convertvector(load<S16x8>(&raw), I8), F8);
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

template <PixelType type, bool swapped>
double sum_of(const ImageView& view) noexcept {
    constexpr Index step = bytes_per_pixel(type);
    D8 even{};
    D8 odd{};
    for (Index y = 0; y < view.height; ++y) {
        const std::byte* row = view.data + y * view.row_stride;
        Index x = 0;
        for (; x + 2 * lanes <= view.width; x += 2 * lanes) {
            even += widen(pixels<type, swapped>(row + x * step));
            odd += widen(pixels<type, swapped>(row + (x + lanes) * step));
        }
        if (x + lanes <= view.width) {
            even += widen(pixels<type, swapped>(row + x * step));
            x += lanes;
        }
        if (x < view.width) {
            odd += widen(last_pixels<type, swapped>(row + x * step, view.width - x));
        }
    }
    return total(even + odd);
}

template <PixelType type, bool swapped>
void convert_from(const ImageView& view, double level, float* out, Index stride) noexcept {
    constexpr Index step = bytes_per_pixel(type);
    const D8 levels = D8{} + level;
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
    return visit(view, [&]<PixelType type, bool swapped>() { return sum_of<type, swapped>(view); });
}

void convert(const ImageView& view, double level, float* out, Index stride) noexcept {
    visit(view, [&]<PixelType type, bool swapped>() { convert_from<type, swapped>(view, level, out, stride); });
}

CRYOBOX_INLINE F8 load_some(const float* from, Index count) noexcept {
    F8 value{};
    __builtin_memcpy(&value, from, static_cast<std::size_t>(count) * sizeof(float));
    return value;
}

constexpr D8 lane_numbers = {0, 1, 2, 3, 4, 5, 6, 7};

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

BackgroundSums background_sums(const float* image, const BackgroundRuns& background) noexcept {
    const Index size = background.size;
    const Index half = size / 2;
    D8 value{};
    D8 value_i{};
    D8 value_j{};
    D8 square{};
    for (Index y = 0; y < size; ++y) {
        const float* row = image + y * size;
        D8 row_value{};
        const auto add = [&](D8 v, Index x) {
            row_value += v;
            value_j += v * (lane_numbers + static_cast<double>(x - half));
            square += v * v;
        };
        const auto full = [&](Index x) { add(widen(load<F8>(row + x)), x); };
        const auto rest = [&](Index x, Index count) { add(widen(load_some(row + x, count)), x); };
        in_groups(0, background.first_run_end[y], full, rest);
        in_groups(background.second_run_begin[y], size, full, rest);
        value += row_value;
        value_i += row_value * static_cast<double>(y - half);
    }
    return BackgroundSums{
        .value = total(value), .value_i = total(value_i), .value_j = total(value_j), .square = total(square)};
}

BackgroundSums residual_sums(const float* image, const BackgroundRuns& background, const Plane& plane) noexcept {
    const Index size = background.size;
    const Index half = size / 2;
    D8 value{};
    D8 square{};
    for (Index y = 0; y < size; ++y) {
        const float* row = image + y * size;
        const double row_level = plane.level + plane.slope_y * static_cast<double>(y - half);
        const auto residual = [&](D8 v, Index x) {
            return v - (row_level + (lane_numbers + static_cast<double>(x - half)) * plane.slope_x);
        };
        const auto full = [&](Index x) {
            const D8 r = residual(widen(load<F8>(row + x)), x);
            value += r;
            square += r * r;
        };
        const auto rest = [&](Index x, Index count) {
            D8 r = residual(widen(load_some(row + x, count)), x);
            for (Index lane = count; lane < lanes; ++lane) {
                r[lane] = 0;
            }
            value += r;
            square += r * r;
        };
        in_groups(0, background.first_run_end[y], full, rest);
        in_groups(background.second_run_begin[y], size, full, rest);
    }
    return BackgroundSums{.value = total(value), .value_i = 0, .value_j = 0, .square = total(square)};
}

template <bool to_float16>
ImageStatistics finish_into(const float* image, Index size, const Finish& finish, float* float32,
                            Half* float16) noexcept {
    const Index half = size / 2;
    const D8 shift = D8{} + finish.shift;
    const F8 limit = F8{} + largest_half;
    F8 low = F8{} + __builtin_inff();
    F8 high = F8{} - __builtin_inff();
    D8 deviation{};
    D8 square{};
    I8 beyond{};
    for (Index y = 0; y < size; ++y) {
        const float* row = image + y * size;
        const double row_level = finish.plane.level + finish.plane.slope_y * static_cast<double>(y - half);
        const auto finished = [&](D8 v, Index x) {
            const D8 plane = row_level + (lane_numbers + static_cast<double>(x - half)) * finish.plane.slope_x;
            return narrow((v - plane) * finish.scale);
        };
        // The statistics of the lanes that are set; `v` of the others repeats a set one and is kept out of the sums.
        const auto note = [&](F8 v, D8 d) {
            low = v < low ? v : low;
            high = v > high ? v : high;
            deviation += d;
            square += d * d;
        };
        const auto as_half = [&](F8 v) {
            const F8 below = v > limit ? limit : v;
            return to_half(below < -limit ? -limit : below);
        };
        const auto full = [&](Index x) {
            const F8 v = finished(widen(load<F8>(row + x)), x);
            note(v, widen(v) - shift);
            if constexpr (to_float16) {
                beyond -= (v > limit) | (v < -limit);
                store(float16 + y * size + x, as_half(v));
            } else {
                store(float32 + y * size + x, v);
            }
        };
        const auto rest = [&](Index x, Index count) {
            F8 v = finished(widen(load_some(row + x, count)), x);
            D8 d = widen(v) - shift;
            for (Index lane = count; lane < lanes; ++lane) {
                v[lane] = v[0];
                d[lane] = 0;
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

ImageStatistics finish(const float* image, Index size, const Finish& finish, float* float32, Half* float16) noexcept {
    return float16 != nullptr ? finish_into<true>(image, size, finish, float32, float16)
                              : finish_into<false>(image, size, finish, float32, float16);
}

} // namespace

namespace CRYOBOX_BUILD {
extern const Kernels kernels;
constinit const Kernels kernels = {.name = CRYOBOX_TEXT(CRYOBOX_BUILD),
                                   .sum = &sum,
                                   .convert = &convert,
                                   .background_sums = &background_sums,
                                   .residual_sums = &residual_sums,
                                   .finish = &finish};
} // namespace CRYOBOX_BUILD

} // namespace cryobox
