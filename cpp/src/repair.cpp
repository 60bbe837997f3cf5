// Hot pixels: found by one threshold for the whole micrograph, judged by what lies around them.
#include "cryobox/repair.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "cryobox/arguments.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/noise.hpp"

namespace cryobox {

namespace {

constexpr Index reach = 2; // of a neighborhood, on each side
constexpr Index around = 2 * reach + 1;

/// A part of an image, as floats one row after the other.
ImageView part(const ImageView& image, Index y, Index x, Index height, Index width) {
    ImageView view = image;
    view.data += y * image.row_stride + x * bytes_per_pixel(image.type);
    view.height = height;
    view.width = width;
    return view;
}

/// The lower median: one of the values. There must be one.
template <class Value>
Value median(std::span<Value> values) {
    const auto middle = values.begin() + (static_cast<std::ptrdiff_t>(values.size()) - 1) / 2;
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

std::vector<double> sample(const ImageView& image, std::uint64_t seed) {
    const Index pixels = image.height * image.width;
    const bool whole = pixels <= sampled_pixels;
    const Index count = whole ? pixels : sampled_pixels;
    std::vector<double> values;
    values.reserve(static_cast<std::size_t>(count));
    for (Index i = 0; i < count; ++i) {
        const auto drawn =
            static_cast<Index>(draw(seed, static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(pixels));
        const Index at = whole ? i : drawn;
        float value = 0;
        kernels().take(part(image, at / image.width, at % image.width, 1, 1), &value, 1);
        if (std::isfinite(value)) {
            values.push_back(static_cast<double>(value));
        }
    }
    return values;
}

/// Median and robust sd of a micrograph; where more than half of the pixels are the same, the plain sd about it.
struct Levels {
    double median = 0;
    double sd = 0;
};

Levels levels(std::vector<double> values) {
    if (values.empty()) {
        return {};
    }
    const double middle = median(std::span(values));
    double square = 0;
    for (double& value : values) {
        value = std::abs(value - middle);
        square += value * value;
    }
    constexpr double of_a_gaussian = 1.4826;
    const double spread = of_a_gaussian * median(std::span(values));
    return {.median = middle, .sd = spread > 0 ? spread : std::sqrt(square / static_cast<double>(values.size()))};
}

/// The largest float that is not above a number.
float floor_float(double value) {
    const auto near = static_cast<float>(value);
    return static_cast<double>(near) > value ? std::nextafter(near, -std::numeric_limits<float>::infinity()) : near;
}

/// Where the pixel lies that a hot one becomes; none: it is not hot.
struct Remedy {
    bool hot = false;
    Index y = 0;
    Index x = 0;
};

Remedy judge(const ImageView& image, Index y, Index x, float value, float limit, double beyond) {
    const Index top = std::max<Index>(y - reach, 0);
    const Index left = std::max<Index>(x - reach, 0);
    const Index height = std::min(y + reach + 1, image.height) - top;
    const Index width = std::min(x + reach + 1, image.width) - left;
    std::array<float, around * around> near{};
    kernels().take(part(image, top, left, height, width), near.data(), width);
    std::array<float, around * around> every{};
    std::array<float, around * around> good{};
    std::size_t all = 0;
    std::size_t kept = 0;
    for (Index k = 0; k < height * width; ++k) {
        const float one = near[static_cast<std::size_t>(k)];
        if (std::isfinite(one)) {
            every[all++] = one;
            if (one <= limit) {
                good[kept++] = one;
            }
        }
    }
    const auto level = static_cast<double>(median(std::span(every.data(), all)));
    if (kept == 0 || !(static_cast<double>(value) - level > beyond)) {
        return {};
    }
    const float wanted = median(std::span(good.data(), kept));
    const auto* found = std::find(near.data(), near.data() + height * width, wanted);
    const Index k = found - near.data();
    return {.hot = true, .y = top + k / width, .x = left + k % width};
}

} // namespace

Index repair_hot_pixels(const ImageView& image, std::byte* pixels, double threshold, std::uint64_t seed) {
    require(std::isfinite(threshold) && threshold > 0, "the threshold of hot pixels must be a positive number");
    check_image(image);
    if (image.height == 0 || image.width == 0) {
        return 0;
    }
    const Levels of = levels(sample(image, seed));
    if (!(of.sd > 0)) {
        return 0;
    }
    const double beyond = threshold * of.sd;
    const float limit = floor_float(of.median + beyond);
    const Index step = bytes_per_pixel(image.type);
    std::vector<float> row(static_cast<std::size_t>(image.width));
    std::vector<std::pair<Index, std::array<std::byte, sizeof(float)>>> repairs;
    for (Index y = 0; y < image.height; ++y) {
        kernels().take(part(image, y, 0, 1, image.width), row.data(), image.width);
        const float none = -std::numeric_limits<float>::infinity();
        for (Index x = kernels().find_beyond(row.data(), 0, image.width, none, limit); x < image.width;
             x = kernels().find_beyond(row.data(), x + 1, image.width, none, limit)) {
            const float value = row[static_cast<std::size_t>(x)];
            const Remedy remedy = std::isfinite(value) ? judge(image, y, x, value, limit, beyond) : Remedy{};
            if (remedy.hot) {
                std::array<std::byte, sizeof(float)> bytes{};
                std::memcpy(bytes.data(), image.data + remedy.y * image.row_stride + remedy.x * step,
                            static_cast<std::size_t>(step));
                repairs.emplace_back(y * image.row_stride + x * step, bytes);
            }
        }
    }
    for (const auto& [at, bytes] : repairs) {
        std::memcpy(pixels + at, bytes.data(), static_cast<std::size_t>(step));
    }
    return static_cast<Index>(repairs.size());
}

} // namespace cryobox
