// Feeds the core with any image, corners, sizes and options, in memory that ends where they say it ends: under
// AddressSanitizer nothing may be read or written beyond, under UndefinedBehaviorSanitizer nothing may overflow.
// One function, LLVMFuzzerTestOneInput: for libFuzzer (clang++ -fsanitize=fuzzer), or for fuzz_driver.cpp.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "cryobox/extract.hpp"

namespace {

using namespace cryobox;

/// Takes numbers off the front of the input; zeros when it is used up.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

    template <class T>
    T take() {
        T value{};
        const std::size_t n = left_ < sizeof(T) ? left_ : sizeof(T);
        if (n > 0) {
            std::memcpy(&value, data_, n);
        }
        data_ += n;
        left_ -= n;
        return value;
    }

    /// Small numbers mostly, as these get far; now and then any.
    Index number(Index most) {
        const auto kind = take<std::uint8_t>();
        if (kind < 240) {
            return take<std::uint16_t>() % (most + 1);
        }
        return static_cast<Index>(take<std::int64_t>());
    }

    void fill(std::byte* target, std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) {
            // A pattern that goes on after the input's end, so that images are not all zeros.
            target[i] = left_ > 0 ? take<std::byte>() : std::byte(i * 37 % 251);
        }
    }

private:
    const std::uint8_t* data_;
    std::size_t left_;
};

void require(bool condition, const char* message) {
    if (!condition) {
        std::fprintf(stderr, "fuzz_extract: %s\n", message);
        std::abort();
    }
}

constexpr Index most_pixels = 4096; // of an image or a box: enough for every path, small enough to be fast

bool is_zero(const std::byte* data, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        if (data[i] != std::byte{0}) {
            return false;
        }
    }
    return true;
}

void extract_once(Bytes bytes) {
    ImageView image;
    image.type = static_cast<PixelType>(bytes.take<std::uint8_t>() % 6);
    image.swapped = bytes.take<std::uint8_t>() % 2 != 0;
    image.height = bytes.number(70);
    image.width = bytes.number(70);
    const Index pixel = bytes_per_pixel(image.type);
    const bool plain =
        image.height >= 0 && image.width >= 0 && image.width <= most_pixels && image.height <= most_pixels;
    const Index gap = bytes.number(24);
    const Index row = plain ? image.width * pixel : 0;
    image.row_stride = gap >= 0 && gap < 1000 ? row + gap : gap;
    // Exactly the bytes that such an image may be read from; none where its numbers make no sense. Large images that do
    // make sense are left out: the core must believe a caller who says that he has the memory.
    std::size_t held = 0;
    if (image.height >= 0 && image.width >= 0 && (!plain || (image.height > 1 && image.row_stride >= 1 << 16))) {
        return;
    }
    if (plain && image.height > 1 && image.row_stride >= row) {
        held = static_cast<std::size_t>((image.height - 1) * image.row_stride + row);
    } else if (plain && image.height == 1) {
        held = static_cast<std::size_t>(row);
    }
    const auto pixels = std::make_unique<std::byte[]>(held);
    image.data = pixels.get();

    ExtractOptions options;
    options.box = bytes.number(64);
    const auto flags = bytes.take<std::uint8_t>();
    options.pad = (flags & 1) != 0;
    options.steps.normalize = (flags & 2) != 0;
    options.steps.ramp = (flags & 4) != 0;
    options.steps.invert = (flags & 8) != 0;
    options.threads = (flags & 16) != 0 ? bytes.take<std::int32_t>() % 4 : 1;
    options.steps.scale_const = (flags & 32) != 0 ? bytes.take<double>() : 0;

    const auto count = static_cast<std::size_t>(bytes.take<std::uint8_t>() % 6);
    std::vector<Corner> corners(count);
    for (Corner& corner : corners) {
        // Wrapping round is a corner, too; in unsigned numbers it is defined.
        const std::uint64_t back = (flags & 64) != 0 ? 30 : 0;
        corner.y = static_cast<std::int64_t>(static_cast<std::uint64_t>(bytes.number(100)) - back);
        corner.x = static_cast<std::int64_t>(static_cast<std::uint64_t>(bytes.number(100)) - back);
    }
    const auto outputs = static_cast<std::size_t>(bytes.take<std::uint8_t>() % 3);
    std::vector<StackView> stacks(outputs);
    std::vector<std::unique_ptr<std::byte[]>> rooms(outputs);
    std::vector<std::size_t> sizes(outputs);
    for (std::size_t i = 0; i < outputs; ++i) {
        stacks[i].size = bytes.number(64);
        const bool half = bytes.take<std::uint8_t>() % 2 != 0;
        const bool sensible = stacks[i].size > 0 && stacks[i].size <= 128;
        sizes[i] = sensible ? count * static_cast<std::size_t>(stacks[i].size * stacks[i].size) * (half ? 2 : 4) : 0;
        rooms[i] = std::make_unique<std::byte[]>(sizes[i]);
        if (half) {
            stacks[i].float16 = reinterpret_cast<Half*>(rooms[i].get());
        } else {
            stacks[i].float32 = reinterpret_cast<float*>(rooms[i].get());
        }
        options.radii.push_back((flags & 128) != 0 ? bytes.take<double>() : static_cast<double>(bytes.number(40)));
    }
    std::vector<Status> status(bytes.take<std::uint8_t>() % 16 == 0 ? count + 1 : count);
    std::vector<double> statistics(count * outputs * statistics_count);
    bytes.fill(pixels.get(), held);
    // What is larger than any test needs would only take time and memory; that it is refused is tested elsewhere.
    if (options.box > 128 && options.box <= largest_box) {
        return;
    }
    try {
        extract(image, corners, stacks, options, status, statistics);
    } catch (const std::invalid_argument&) {
        return;
    }
    for (std::size_t i = 0; i < count; ++i) {
        require(status[i] <= Status::no_contrast, "an unknown status");
        for (std::size_t k = 0; k < outputs; ++k) {
            const std::size_t each = sizes[k] / count;
            const std::byte* particle = rooms[k].get() + i * each;
            if (status[i] != Status::ok) {
                require(is_zero(particle, each), "a particle that was refused has pixels");
            } else if (stacks[k].float32 != nullptr) {
                const auto* values = reinterpret_cast<const float*>(particle);
                for (std::size_t p = 0; p < each / 4; ++p) {
                    require(std::isfinite(values[p]), "a particle that was accepted has a pixel that is not finite");
                }
            }
        }
    }
}

void crop_once(Bytes bytes) {
    const auto count = bytes.take<std::uint8_t>() % 4;
    const Index box = bytes.number(64);
    const Index size = bytes.number(64);
    if (box < 0 || box > 128 || size < 0 || size > 128) {
        return; // there would be nothing to point at
    }
    const auto in = static_cast<std::size_t>(count * box * box);
    const auto out = static_cast<std::size_t>(count * size * size);
    const auto images = std::make_unique<float[]>(in);
    const auto cropped = std::make_unique<float[]>(out);
    bytes.fill(reinterpret_cast<std::byte*>(images.get()), in * 4);
    const bool sensible = box >= 2 && box % 2 == 0 && size >= 2 && size % 2 == 0 && size <= box;
    bool refused = false;
    try {
        fourier_crop(images.get(), count, box, cropped.get(), size, 1);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    require(refused != sensible, "sizes that make sense are taken, others are not");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    if (bytes.take<std::uint8_t>() % 8 == 0) {
        crop_once(bytes);
    } else {
        extract_once(bytes);
    }
    return 0;
}
