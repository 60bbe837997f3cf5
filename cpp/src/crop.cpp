// Index work of the Fourier crop; the transforms are in fft_fftw.cpp.
#include "cryobox/crop.hpp"

#include "cryobox/rules.hpp"

namespace cryobox {

void interleave(const float* first, const float* second, Index length, Complex* both) noexcept {
    for (Index x = 0; x < length; ++x) {
        both[x] = {first[x], second[x]};
    }
}

void separate(const Complex* both, Index length, float* first, float* second) noexcept {
    for (Index x = 0; x < length; ++x) {
        first[x] = both[x].real();
        second[x] = both[x].imag();
    }
}

void split(const Complex* both, Index length, Index columns, Complex* to, Index stride) noexcept {
    for (Index k = 0; k < columns; ++k) {
        const Complex plus = both[k];
        const Complex minus = both[k == 0 ? 0 : length - k];
        to[k * stride] = {plus.real() + minus.real(), plus.imag() - minus.imag()};
        to[k * stride + 1] = {plus.imag() + minus.imag(), minus.real() - plus.real()};
    }
}

void crop_column(const Complex* column, Index box, Complex* cropped, Index size, float scale) noexcept {
    const Index half = size / 2;
    for (Index k = 0; k < half; ++k) {
        cropped[k] = {column[k].real() * scale, column[k].imag() * scale};
    }
    for (Index k = 1 - half; k < 0; ++k) {
        const Complex value = column[place_of_frequency(k, box)];
        cropped[place_of_frequency(k, size)] = {value.real() * scale, value.imag() * scale};
    }
    const Complex plus = column[half];
    const Complex minus = column[place_of_frequency(-half, box)];
    cropped[half] = {(plus.real() + minus.real()) * 0.5F * scale, (plus.imag() + minus.imag()) * 0.5F * scale};
}

void join(const Complex* columns, Index stride, Index size, Complex* both) noexcept {
    const Index half = size / 2;
    both[0] = {columns[0].real(), columns[1].real()};
    for (Index k = 1; k < half; ++k) {
        const Complex first = columns[k * stride];
        const Complex second = columns[k * stride + 1];
        both[k] = {first.real() - second.imag(), first.imag() + second.real()};
        both[size - k] = {first.real() + second.imag(), second.real() - first.imag()};
    }
    both[half] = {columns[half * stride].real(), columns[half * stride + 1].real()};
}

} // namespace cryobox
