// Views of pixels that a caller owns: the micrograph that windows are cut from, and the stacks that results go into.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cryobox {

using Index = std::ptrdiff_t;

/// A 16-bit float as it is stored; half.hpp converts it.
struct Half {
    std::uint16_t bits = 0;
};

/// Every pixel type that a micrograph file can hold.
enum class PixelType : std::uint8_t { int8, uint8, int16, uint16, float16, float32 };

constexpr Index bytes_per_pixel(PixelType type) noexcept {
    switch (type) {
    case PixelType::int8:
    case PixelType::uint8:
        return 1;
    case PixelType::int16:
    case PixelType::uint16:
    case PixelType::float16:
        return 2;
    case PixelType::float32:
        return 4;
    }
    return 0;
}

/// The largest number of a type that a detector or a conversion may fill; 0 for float32.
constexpr double largest_count(PixelType type) noexcept {
    switch (type) {
    case PixelType::int8:
        return 127;
    case PixelType::uint8:
        return 255;
    case PixelType::int16:
        return 32767;
    case PixelType::uint16:
        return 65535;
    case PixelType::float16:
        return 65504;
    case PixelType::float32:
        return 0;
    }
    return 0;
}

/// Rows of pixels. Pixels of a row are adjacent; rows may be padded. The type is a value and the address is one of
/// bytes, since a file's pixels may be swapped and unaligned: nothing may read them as a `const float*`.
struct ImageView {
    const std::byte* data = nullptr;
    Index height = 0;
    Index width = 0;
    Index row_stride = 0; ///< distance between rows, in bytes
    PixelType type = PixelType::float32;
    bool swapped = false; ///< the bytes of a pixel are in the order that is not this machine's
};

/// First pixel of a window; may be outside the image.
struct Corner {
    std::int64_t y = 0;
    std::int64_t x = 0;
};

/// Images of `size` x `size` without gaps, one after the other; exactly one of the pointers is set.
struct StackView {
    float* float32 = nullptr;
    Half* float16 = nullptr;
    Index size = 0;
};

} // namespace cryobox
