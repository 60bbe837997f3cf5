// What a block of threads has for its work: numbers of threads, a micrograph in device memory, its pixels, sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cryobox/half.hpp"
#include "cryobox/image.hpp"
#include "cryobox/rules.hpp"

#ifdef __CUDACC__
#define CRYOBOX_DEVICE __device__ __forceinline__
#else
#define CRYOBOX_DEVICE inline
#endif

namespace cryobox::cuda {

/// A complex number as every Fourier library lays it out.
struct alignas(8) Coefficient {
    float re = 0;
    float im = 0;
};

inline constexpr int lanes = 32;              ///< neighbors in a row that read together
inline constexpr int threads_of_sums = 256;   ///< 8 rows at a time
inline constexpr int threads_of_finish = 512; ///< one block per particle
inline constexpr Index rows_per_slice = 16;   ///< of a window, per block
inline constexpr int tile = 32;               ///< side of what is transposed at a time

constexpr Index slices_of(Index box) noexcept { return (box + rows_per_slice - 1) / rows_per_slice; }
constexpr Index tiles_of(Index length) noexcept { return (length + tile - 1) / tile; }

/// Which block of a launch this is.
struct Block {
    Index x = 0;
    Index y = 0;
    Index z = 0;
};

/// A micrograph in device memory: rows [first_row, last_row) of it are there, at `pixels.data` the first of them.
struct DeviceImage {
    ImageView pixels; ///< height is the whole micrograph's
    Index first_row = 0;

    /// A row, or the nearest one inside the micrograph.
    [[nodiscard]] CRYOBOX_DEVICE const std::byte* row(Index y) const {
        return pixels.data + (nearest_inside(y, pixels.height) - first_row) * pixels.row_stride;
    }
};

template <class T>
CRYOBOX_DEVICE T load(const std::byte* from) {
    T value;
    __builtin_memcpy(&value, __builtin_assume_aligned(from, sizeof(T)), sizeof(T));
    return value;
}

CRYOBOX_DEVICE std::uint16_t swap_bytes(std::uint16_t v) { return static_cast<std::uint16_t>(v << 8U | v >> 8U); }
CRYOBOX_DEVICE std::uint32_t swap_bytes(std::uint32_t v) {
    return v << 24U | (v << 8U & 0x00FF0000U) | (v >> 8U & 0x0000FF00U) | v >> 24U;
}

/// Pixel `x` of a row, as a float; every type fits one exactly.
template <PixelType type, bool swapped>
CRYOBOX_DEVICE float pixel(const std::byte* row, Index x) {
    const std::byte* from = row + x * bytes_per_pixel(type);
    if constexpr (type == PixelType::int8) {
        return load<std::int8_t>(from);
    } else if constexpr (type == PixelType::uint8) {
        return load<std::uint8_t>(from);
    } else if constexpr (type == PixelType::float32) {
        const auto bits = load<std::uint32_t>(from);
        return __builtin_bit_cast(float, swapped ? swap_bytes(bits) : bits);
    } else {
        const auto raw = load<std::uint16_t>(from);
        const std::uint16_t bits = swapped ? swap_bytes(raw) : raw;
        if constexpr (type == PixelType::float16) {
            return __builtin_bit_cast(float, float_bits(bits));
        } else if constexpr (type == PixelType::uint16) {
            return bits;
        } else {
            return static_cast<std::int16_t>(bits);
        }
    }
}

/// Calls `work.template operator()<type, swapped>()` for the type of the pixels: once per block, not per pixel.
template <class Work>
CRYOBOX_DEVICE void visit(const ImageView& view, const Work& work) {
    switch (view.type) {
    case PixelType::int8:
        work.template operator()<PixelType::int8, false>();
        return;
    case PixelType::uint8:
        work.template operator()<PixelType::uint8, false>();
        return;
    case PixelType::int16:
        view.swapped ? work.template operator()<PixelType::int16, true>()
                     : work.template operator()<PixelType::int16, false>();
        return;
    case PixelType::uint16:
        view.swapped ? work.template operator()<PixelType::uint16, true>()
                     : work.template operator()<PixelType::uint16, false>();
        return;
    case PixelType::float16:
        view.swapped ? work.template operator()<PixelType::float16, true>()
                     : work.template operator()<PixelType::float16, false>();
        return;
    case PixelType::float32:
        view.swapped ? work.template operator()<PixelType::float32, true>()
                     : work.template operator()<PixelType::float32, false>();
        return;
    }
}

CRYOBOX_DEVICE bool is_finite(double value) { return value - value == 0; }

/// What every thread has into that of thread 0, by halves: `combine(into, from)` adds one thread's to another's.
template <class Team, class Combine>
CRYOBOX_DEVICE void reduce(const Team& team, int count, const Combine& combine) {
    for (int half = count / 2; half > 0; half /= 2) {
        team.each([&](int t) {
            if (t < half) {
                combine(t, t + half);
            }
        });
    }
}

} // namespace cryobox::cuda
