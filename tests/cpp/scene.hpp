// A micrograph, corners, and the memory of one call of `extract`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "check.hpp"
#include "cryobox/extract.hpp"

namespace cryobox::testing {

struct Scene {
    Index height = 0;
    Index width = 0;
    std::vector<float> pixels;

    Scene(Index height_of_image, Index width_of_image)
        : height(height_of_image), width(width_of_image),
          pixels(noise(static_cast<std::size_t>(height_of_image * width_of_image), 6800, 9, 7)) {}

    [[nodiscard]] ImageView view() const {
        return {.data = reinterpret_cast<const std::byte*>(pixels.data()),
                .height = height,
                .width = width,
                .row_stride = width * static_cast<Index>(sizeof(float)),
                .type = PixelType::float32,
                .swapped = false};
    }
};

/// What one call makes; the memory is exactly as large as it must be.
struct Made {
    std::vector<std::vector<float>> wide;
    std::vector<std::vector<Half>> narrow;
    std::vector<Status> status;
    std::vector<double> statistics;
};

/// What `work(image, corners, stacks, status, statistics)` makes.
template <class Work>
Made make_with(const Work& work, const Scene& scene, std::span<const Corner> corners, const std::vector<Index>& sizes,
               bool float16) {
    Made made;
    const std::size_t n = corners.size();
    std::vector<StackView> stacks;
    made.wide.resize(sizes.size());
    made.narrow.resize(sizes.size());
    for (std::size_t k = 0; k < sizes.size(); ++k) {
        const std::size_t pixels = n * static_cast<std::size_t>(sizes[k] * sizes[k]);
        StackView stack;
        stack.size = sizes[k];
        if (float16) {
            made.narrow[k].assign(pixels, Half{0x1234});
            stack.float16 = made.narrow[k].data();
        } else {
            made.wide[k].assign(pixels, 123.0F);
            stack.float32 = made.wide[k].data();
        }
        stacks.push_back(stack);
    }
    made.status.resize(n);
    made.statistics.resize(n * sizes.size() * statistics_count);
    work(scene.view(), corners, stacks, made.status, made.statistics);
    return made;
}

inline Made make(const Scene& scene, std::span<const Corner> corners, const std::vector<Index>& sizes,
                 const ExtractOptions& options, bool float16 = false) {
    return make_with([&](const ImageView& image, std::span<const Corner> places, std::span<const StackView> stacks,
                         std::span<Status> status,
                         std::span<double> statistics) { extract(image, places, stacks, options, status, statistics); },
                     scene, corners, sizes, float16);
}

} // namespace cryobox::testing
