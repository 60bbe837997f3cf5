// The steps of the Fourier crop, each alone, and transforms against their definition.
#include <bit>
#include <complex>
#include <cstdint>
#include <numbers>
#include <utility>
#include <vector>

#include "check.hpp"
#include "cryobox/buffer.hpp"
#include "cryobox/crop.hpp"
#include "cryobox/fft.hpp"
#include "cryobox/kernels.hpp"

using namespace cryobox;

namespace {

std::complex<double> dft(const float* from, Index length, Index k) {
    std::complex<double> sum = 0;
    for (Index x = 0; x < length; ++x) {
        sum +=
            static_cast<double>(from[x]) *
            std::polar(1.0, -2 * std::numbers::pi * static_cast<double>(k * x % length) / static_cast<double>(length));
    }
    return sum;
}

bool near(std::complex<double> a, Complex b, double tolerance) {
    return std::abs(a - std::complex<double>(b)) <= tolerance;
}

void two_rows_transformed_as_one_come_apart_into_their_own_coefficients() {
    for (const Index length : {4, 62, 400}) { // 62: a prime factor FFTW has no codelet for
        const auto rows = testing::noise(static_cast<std::size_t>(2 * length), 0, 1, 1);
        const Index columns = length / 2;
        const Index stride = column_stride(length);
        const Buffer<Complex> before(length);
        const Buffer<Complex> after(length);
        std::vector<Complex> split_columns(static_cast<std::size_t>(columns * stride));
        kernels().interleave(rows.data(), rows.data() + length, length, parts(before.data()));
        transform(length, Direction::forward)(before.data(), after.data());
        kernels().split(parts(after.data()), length, columns, parts(split_columns.data()), stride);
        for (Index k = 0; k < columns; ++k) {
            for (Index row = 0; row < 2; ++row) {
                CHECK(near(2.0 * dft(rows.data() + row * length, length, k),
                           split_columns[static_cast<std::size_t>(k * stride + row)], 1e-4));
            }
        }
    }
}

void joining_undoes_splitting() {
    const Index size = 64;
    const auto rows = testing::noise(2 * size, 0, 1, 2);
    const Index columns = size / 2 + 1;
    const Index stride = column_stride(size);
    const Buffer<Complex> before(size);
    const Buffer<Complex> after(size);
    std::vector<Complex> split_columns(static_cast<std::size_t>(columns * stride));
    kernels().interleave(rows.data(), rows.data() + size, size, parts(before.data()));
    transform(size, Direction::forward)(before.data(), after.data());
    kernels().split(parts(after.data()), size, columns, parts(split_columns.data()), stride);
    kernels().join(parts(split_columns.data()), stride, size, parts(before.data()));
    transform(size, Direction::backward)(before.data(), after.data());
    std::vector<float> back(2 * size);
    kernels().separate(parts(after.data()), size, back.data(), back.data() + size);
    for (std::size_t x = 0; x < back.size(); ++x) {
        CHECK(std::abs(back[x] / (2 * size) - rows[x]) < 1e-6F);
    }
}

void the_column_keeps_low_frequencies_and_averages_both_signs_of_the_highest() {
    const std::vector<Complex> column = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}, {12, 13}, {14, 15}};
    std::vector<Complex> cropped(4);
    kernels().crop_column(parts(column.data()), 8, parts(cropped.data()), 4, 2.0F);
    CHECK(cropped[0] == Complex(0, 2));
    CHECK(cropped[1] == Complex(4, 6));
    CHECK(cropped[2] == Complex(4 + 12, 5 + 13)); // 2 * ((4, 5) + (12, 13)) / 2
    CHECK(cropped[3] == Complex(28, 30));
    kernels().crop_column(parts(column.data()), 8, parts(cropped.data()), 2, 1.0F);
    CHECK(cropped[0] == Complex(0, 1));
    CHECK(cropped[1] == Complex((2 + 14) / 2.0F, (3 + 15) / 2.0F));
}

/// What the steps give of the same numbers with one build, as bits.
std::vector<std::uint32_t> steps_of(const Kernels& kernels, Index box, Index size) {
    const auto rows = testing::noise(static_cast<std::size_t>(2 * box), 3, 5, 7);
    std::vector<float> both(static_cast<std::size_t>(2 * box));
    const Index columns = size / 2 + 1;
    const Index stride = column_stride(box);
    std::vector<float> place(static_cast<std::size_t>(2 * columns * stride));
    std::vector<float> cropped(static_cast<std::size_t>(2 * size));
    std::vector<float> joined(static_cast<std::size_t>(2 * size));
    std::vector<float> apart(static_cast<std::size_t>(2 * size));
    kernels.interleave(rows.data(), rows.data() + box, box, both.data());
    kernels.split(both.data(), box, columns, place.data(), stride);
    kernels.crop_column(rows.data(), box, cropped.data(), size, 0.3F);
    kernels.join(place.data(), stride, size, joined.data());
    kernels.separate(joined.data(), size, apart.data(), apart.data() + size);
    std::vector<std::uint32_t> bits;
    for (const auto* values : {&both, &place, &cropped, &joined, &apart}) {
        for (const float value : *values) {
            bits.push_back(std::bit_cast<std::uint32_t>(value));
        }
    }
    return bits;
}

void every_build_gives_the_same_bits() {
    for (const auto& [box, size] :
         {std::pair<Index, Index>{400, 128}, {64, 62}, {34, 22}, {18, 10}, {12, 6}, {6, 4}, {4, 2}}) {
        const auto expected = steps_of(*runnable_kernels().front(), box, size);
        for (const Kernels* build : runnable_kernels()) {
            CHECK(steps_of(*build, box, size) == expected);
        }
    }
}

void columns_stand_whole_cache_lines_apart_in_odd_number() {
    for (Index length = 2; length < 600; length += 2) {
        const Index stride = column_stride(length);
        CHECK(stride >= length && stride % 8 == 0 && stride / 8 % 2 == 1);
    }
}

} // namespace

int main() {
    return testing::run(two_rows_transformed_as_one_come_apart_into_their_own_coefficients, joining_undoes_splitting,
                        the_column_keeps_low_frequencies_and_averages_both_signs_of_the_highest,
                        every_build_gives_the_same_bits, columns_stand_whole_cache_lines_apart_in_odd_number);
}
