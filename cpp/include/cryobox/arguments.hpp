// What every backend refuses before it writes a pixel, in the same words.
#pragma once

#include <span>

#include "cryobox/extract.hpp"
#include "cryobox/image.hpp"

namespace cryobox {

/// @throws std::invalid_argument
void require(bool condition, const char* message);

/// @throws std::invalid_argument unless `size` is even, at least 2 and at most `most`
void check_box(const char* message, Index size, Index most);

/// @throws std::invalid_argument
void check_image(const ImageView& image);

/// Everything that `extract` is given beside the image.
/// @throws std::invalid_argument
void check_arguments(std::span<const Corner> corners, std::span<const StackView> outputs, const ExtractOptions& options,
                     std::span<const Status> status, std::span<const double> statistics);

} // namespace cryobox
