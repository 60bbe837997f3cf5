// Which coefficients of a box's transform make those of a smaller image.
#include "cryobox/fft.hpp"
#include "cryobox/rules.hpp"

namespace cryobox {

namespace {

void copy_scaled(const Complex* from, Complex* to, Index count, float scale) noexcept {
    for (Index x = 0; x < count; ++x) {
        to[x] = {from[x].real() * scale, from[x].imag() * scale};
    }
}

} // namespace

void crop_spectrum(const Complex* spectrum, Index box, Index columns, Complex* cropped, Index size,
                   float scale) noexcept {
    const Index half = size / 2;
    const Index kept = half + 1;
    for (Index k = 1 - half; k < half; ++k) {
        copy_scaled(spectrum + place_of_frequency(k, box) * columns, cropped + place_of_frequency(k, size) * kept, kept,
                    scale);
    }
    // Row size / 2: the average of both signs.
    const Complex* positive = spectrum + half * columns;
    const Complex* negative = spectrum + place_of_frequency(-half, box) * columns;
    for (Index x = 0; x < kept; ++x) {
        cropped[half * kept + x] = {(positive[x].real() + negative[x].real()) * 0.5F * scale,
                                    (positive[x].imag() + negative[x].imag()) * 0.5F * scale};
    }
    // Column size / 2: the average of (k, +size/2) and (k, -size/2), the latter being the conjugate of (-k, +size/2).
    // A complex-to-real transform needs only this Hermitian part; here it is given nothing else, so that no algorithm
    // of FFTW's can tell.
    Complex* last = cropped + half;
    for (Index k = 0; k <= half; ++k) {
        Complex& plus = last[k * kept];
        Complex& minus = last[place_of_frequency(k == half ? k : -k, size) * kept];
        const float real = (plus.real() + minus.real()) * 0.5F;
        const float imaginary = (plus.imag() - minus.imag()) * 0.5F;
        plus = {real, imaginary};
        minus = {real, -imaginary};
    }
    // Rows 0 and size / 2 of that column are their own conjugates: the loop left them real (plus is minus there, and
    // its imaginary part was subtracted from itself).
}

} // namespace cryobox
