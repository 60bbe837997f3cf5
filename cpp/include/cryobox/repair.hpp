// Repair of a whole micrograph, before windows are cut.
#pragma once

#include <cstdint>

#include "cryobox/image.hpp"

namespace cryobox {

/// Pixels that a sample of a micrograph has, for its median and spread; smaller micrographs are sampled whole.
inline constexpr Index sampled_pixels = 16384;

/// Replace hot pixels, in place: those more than `threshold` robust sd above the micrograph's median that are also so
/// far above the median of the 5 x 5 pixels around them, by the median of those that are not above the first.
/// Everything is decided on the pixels as they were. @return how many were replaced
/// @throws std::invalid_argument unless `threshold` is a positive number
Index repair_hot_pixels(const ImageView& image, std::byte* pixels, double threshold, std::uint64_t seed);

} // namespace cryobox
