// Every build of the kernels gives the same bits, from any type, byte order, width and alignment.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "check.hpp"
#include "cryobox/half.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/rules.hpp"

using namespace cryobox;

namespace {

constexpr PixelType all_types[] = {PixelType::int8,   PixelType::uint8,   PixelType::int16,
                                   PixelType::uint16, PixelType::float16, PixelType::float32};

/// Bytes of `count` pixels, and what they are worth.
struct Pixels {
    std::vector<std::byte> bytes;
    std::vector<float> values;
};

template <class T>
void append(std::vector<std::byte>& bytes, T value, bool swapped) {
    auto raw = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
    if (swapped) {
        std::ranges::reverse(raw);
    }
    bytes.insert(bytes.end(), raw.begin(), raw.end());
}

Pixels make(PixelType type, bool swapped, std::size_t count) {
    Pixels pixels;
    for (const float value : testing::noise(count, 20, 30, 5)) {
        switch (type) {
        case PixelType::int8: {
            const auto v = static_cast<std::int8_t>(std::clamp(value, -128.0F, 127.0F));
            append(pixels.bytes, v, swapped);
            pixels.values.push_back(v);
            break;
        }
        case PixelType::uint8: {
            const auto v = static_cast<std::uint8_t>(std::clamp(value + 130, 0.0F, 255.0F));
            append(pixels.bytes, v, swapped);
            pixels.values.push_back(v);
            break;
        }
        case PixelType::int16: {
            const auto v = static_cast<std::int16_t>(std::clamp(value * 500, -32768.0F, 32767.0F));
            append(pixels.bytes, v, swapped);
            pixels.values.push_back(v);
            break;
        }
        case PixelType::uint16: {
            const auto v = static_cast<std::uint16_t>(std::clamp(value * 500 + 32768, 0.0F, 65535.0F));
            append(pixels.bytes, v, swapped);
            pixels.values.push_back(v);
            break;
        }
        case PixelType::float16: {
            const Half v = to_half(value * 1e-6F); // subnormal ones among them
            append(pixels.bytes, v.bits, swapped);
            pixels.values.push_back(to_float(v));
            break;
        }
        case PixelType::float32:
            append(pixels.bytes, value, swapped);
            pixels.values.push_back(value);
            break;
        }
    }
    return pixels;
}

bool same_bits(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

bool same_bits(const BackgroundSums& a, const BackgroundSums& b) {
    return same_bits(a.value, b.value) && same_bits(a.value_i, b.value_i) && same_bits(a.value_j, b.value_j) &&
           same_bits(a.square, b.square);
}

bool same_bits(const MeasureSums& a, const MeasureSums& b) {
    return same_bits(a.middle, b.middle) && same_bits(a.middle_count, b.middle_count) &&
           same_bits(a.inside, b.inside) && same_bits(a.inside_square, b.inside_square) &&
           same_bits(a.inside_count, b.inside_count) && same_bits(a.local, b.local) && same_bits(a.squares, b.squares);
}

void every_build_reads_every_type_order_width_and_address() {
    constexpr Index rows = 3;
    for (const PixelType type : all_types) {
        for (const bool swapped : {false, true}) {
            for (Index width = 1; width < 40; ++width) {
                const Pixels pixels = make(type, swapped, static_cast<std::size_t>(rows * width));
                // One byte off, and no byte to spare at the end: a read beyond is seen by the sanitizers.
                std::vector<std::byte> shifted(pixels.bytes.size() + 1);
                std::memcpy(shifted.data() + 1, pixels.bytes.data(), pixels.bytes.size());
                const ImageView view{.data = shifted.data() + 1,
                                     .height = rows,
                                     .width = width,
                                     .row_stride = width * bytes_per_pixel(type),
                                     .type = type,
                                     .swapped = swapped && bytes_per_pixel(type) > 1};
                double exact = 0;
                for (const float value : pixels.values) {
                    exact += value;
                }
                const double first = runnable_kernels().front()->sum(view);
                CHECK(std::abs(first - exact) <= 1e-12 * (std::abs(exact) + 1e5));
                for (const Kernels* build : runnable_kernels()) {
                    CHECK(same_bits(build->sum(view), first));
                    std::vector<float> out(static_cast<std::size_t>(rows * width));
                    CHECK(same_bits(build->take(view, out.data(), width), first));
                    CHECK(out == pixels.values);
                    std::ranges::fill(out, 0.0F);
                    build->convert(view, 0.0, out.data(), width);
                    CHECK(out == pixels.values);
                    build->convert(view, 1.5, out.data(), width);
                    for (std::size_t i = 0; i < out.size(); ++i) {
                        CHECK(out[i] == static_cast<float>(static_cast<double>(pixels.values[i]) - 1.5));
                    }
                    ImageView pair = view;
                    pair.height = 2;
                    std::vector<float> both(static_cast<std::size_t>(2 * width));
                    build->convert_pair(pair, 1.5, both.data());
                    for (std::size_t i = 0; i < both.size(); ++i) {
                        CHECK(both[i] == out[i % 2 * static_cast<std::size_t>(width) + i / 2]);
                    }
                }
            }
        }
    }
}

void a_pixel_that_is_not_finite_makes_the_sum_so() {
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
        for (std::size_t at = 0; at < 37; ++at) {
            auto pixels = testing::noise(37, 1, 1, 3);
            pixels[at] = bad;
            const ImageView view{.data = reinterpret_cast<const std::byte*>(pixels.data()),
                                 .height = 1,
                                 .width = 37,
                                 .row_stride = 0,
                                 .type = PixelType::float32,
                                 .swapped = false};
            for (const Kernels* build : runnable_kernels()) {
                CHECK(!std::isfinite(build->sum(view)));
            }
        }
    }
}

void every_build_finishes_with_the_same_bits() {
    for (Index size = 4; size <= 44; size += 2) {
        auto image = testing::noise(static_cast<std::size_t>(size * size), 0, 40000, 9);
        image[3] = 1e-5F; // subnormal in float16
        const Background background(size, 1.5);
        Background middle;
        middle.make_room(size, 0);
        middle.outside_circle(size, 0.75);
        const Finish finish{.plane = {.level = 3, .slope_y = 0.1, .slope_x = -0.2}, .scale = 1.25, .shift = 2};
        const Kernels& plain = *runnable_kernels().front();
        std::vector<double> by_column(static_cast<std::size_t>(room_for_columns(size)));
        Ahead nothing;
        const Beside beside{.by_column = by_column.data(), .ahead = nothing};
        std::vector<float> wide(image.size());
        std::vector<Half> narrow(image.size());
        const ImageStatistics expected = plain.finish(image.data(), size, finish, wide.data(), nullptr, beside);
        const Index clamped = plain.finish(image.data(), size, finish, nullptr, narrow.data(), beside).clamped;
        Index beyond = 0;
        for (std::size_t i = 0; i < wide.size(); ++i) {
            beyond += std::abs(wide[i]) > largest_half ? 1 : 0;
            CHECK(narrow[i].bits == to_half(std::clamp(wide[i], -largest_half, largest_half)).bits);
        }
        CHECK(clamped == beyond);
        CHECK(expected.minimum == *std::ranges::min_element(wide));
        CHECK(expected.maximum == *std::ranges::max_element(wide));
        for (const Kernels* build : runnable_kernels()) {
            std::vector<float> wide_here(image.size());
            std::vector<Half> narrow_here(image.size());
            const ImageStatistics here = build->finish(image.data(), size, finish, wide_here.data(), nullptr, beside);
            const ImageStatistics half = build->finish(image.data(), size, finish, nullptr, narrow_here.data(), beside);
            CHECK(std::memcmp(wide.data(), wide_here.data(), wide.size() * sizeof(float)) == 0);
            CHECK(std::memcmp(narrow.data(), narrow_here.data(), narrow.size() * sizeof(Half)) == 0);
            for (const ImageStatistics& statistics : {here, half}) {
                CHECK(same_bits(statistics.minimum, expected.minimum));
                CHECK(same_bits(statistics.maximum, expected.maximum));
                CHECK(same_bits(statistics.mean, expected.mean));
                CHECK(same_bits(statistics.standard_deviation, expected.standard_deviation));
            }
            CHECK(half.clamped == clamped);
            const BackgroundSums sums = plain.background_sums(image.data(), background.runs(), beside);
            CHECK(same_bits(build->background_sums(image.data(), background.runs(), beside), sums));
            CHECK(same_bits(build->residual_sums(image.data(), background.runs(), finish.plane, beside),
                            plain.residual_sums(image.data(), background.runs(), finish.plane, beside)));
            CHECK(same_bits(build->measure_sums(image.data(), background.runs(), middle.runs(), finish.plane, beside),
                            plain.measure_sums(image.data(), background.runs(), middle.runs(), finish.plane, beside)));
            auto centered = image;
            const BackgroundSums left = build->subtract_level(centered.data(), 2.5, background.runs(), beside);
            for (std::size_t i = 0; i < centered.size(); ++i) {
                CHECK(centered[i] == static_cast<float>(static_cast<double>(image[i]) - 2.5));
            }
            CHECK(same_bits(left, plain.background_sums(centered.data(), background.runs(), beside)));
        }
    }
}

void everything_is_asked_for_in_as_many_calls_as_said() {
    for (const Index width : {1, 15, 16, 17, 100, 256}) {
        for (const Index calls : {1, 3, 50, 10000}) {
            const auto pixels = testing::noise(static_cast<std::size_t>(20 * 300), 1, 1, 3);
            const ImageView view{.data = reinterpret_cast<const std::byte*>(pixels.data()),
                                 .height = 20,
                                 .width = width,
                                 .row_stride = 300 * static_cast<Index>(sizeof(float)),
                                 .type = PixelType::float32,
                                 .swapped = false};
            Ahead ahead(view, calls);
            for (Index call = 0; call < calls; ++call) {
                ahead.fetch();
            }
            CHECK(ahead.done());
        }
    }
    Ahead nothing;
    nothing.fetch();
    CHECK(nothing.done());
}

void the_list_begins_with_the_plain_build_and_ends_with_the_one_in_use() {
    CHECK(runnable_kernels().front()->name == "baseline");
    CHECK(runnable_kernels().back() == &kernels());
}

} // namespace

int main() {
    return testing::run(every_build_reads_every_type_order_width_and_address,
                        a_pixel_that_is_not_finite_makes_the_sum_so, every_build_finishes_with_the_same_bits,
                        everything_is_asked_for_in_as_many_calls_as_said,
                        the_list_begins_with_the_plain_build_and_ends_with_the_one_in_use);
}
