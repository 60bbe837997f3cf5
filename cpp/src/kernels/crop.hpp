// The steps of a Fourier crop. A complex number is two adjacent floats, a vector holds four.
#pragma once

#include "cryobox/image.hpp"
#include "cryobox/rules.hpp"
#include "lanes.hpp"

namespace cryobox {
namespace {

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

CRYOBOX_INLINE F8 of_numbers(const float* factors) noexcept { // four factors, each for both parts of its number
    F8 value{};
    __builtin_memcpy(&value, factors, numbers * sizeof(float));
    return __builtin_shufflevector(value, value, 0, 0, 1, 1, 2, 2, 3, 3);
}

void weigh(float* all, const float* factors, Index count) noexcept {
    Index k = 0;
    for (; k + numbers <= count; k += numbers) {
        store(all + 2 * k, load<F8>(all + 2 * k) * of_numbers(factors + k));
    }
    for (; k < count; ++k) {
        all[2 * k] *= factors[k];
        all[2 * k + 1] *= factors[k];
    }
}

CRYOBOX_INLINE F8 times(F8 a, F8 b) noexcept {
    const F8 real = __builtin_shufflevector(b, b, 0, 0, 2, 2, 4, 4, 6, 6);
    const F8 imaginary = __builtin_shufflevector(b, b, 1, 1, 3, 3, 5, 5, 7, 7);
    return a * real + negate(exchange(a) * imaginary, real_parts);
}

void turn(float* all, const float* turns, float real, float imaginary, Index count) noexcept {
    const F8 common = {real, imaginary, real, imaginary, real, imaginary, real, imaginary};
    Index k = 0;
    for (; k + numbers <= count; k += numbers) {
        store(all + 2 * k, times(load<F8>(all + 2 * k), times(load<F8>(turns + 2 * k), common)));
    }
    if (k < count) { // what is left, in a vector of its own: the same arithmetic
        const Index left = 2 * (count - k);
        const F8 value = times(load_some(all + 2 * k, left), times(load_some(turns + 2 * k, left), common));
        __builtin_memcpy(all + 2 * k, &value, static_cast<std::size_t>(left) * sizeof(float));
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

} // namespace
} // namespace cryobox
