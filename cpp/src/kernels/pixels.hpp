// Pixels of a micrograph, of any type and byte order, as floats: summed, taken, shifted.
#pragma once

#include <cstdint>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cryobox/image.hpp"
#include "lanes.hpp"

namespace cryobox {
namespace {

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

} // namespace
} // namespace cryobox
