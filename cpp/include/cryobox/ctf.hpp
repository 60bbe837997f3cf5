// The contrast transfer function at a coefficient of a window, and what an image is multiplied by there. Plain
// functions of numbers, in double and from arithmetic of our own (exact.hpp): device code uses them as they are.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "cryobox/exact.hpp"
#include "cryobox/image.hpp"

namespace cryobox {

/// What is done with a CTF. The values are those of cryobox.core.
enum class CtfUse : std::uint8_t { none = 0, flip = 1, premultiply = 2 };

/// Numbers of one window's CTF, in the order of cryobox.windows.CTF: kV, mm, 1, Å, Å, degrees, degrees, Å², 1, and the
/// magnification matrix by rows. What follows are coefficients of even Zernike polynomials.
enum CtfNumber : std::uint8_t {
    ctf_voltage,
    ctf_spherical_aberration,
    ctf_amplitude_contrast,
    ctf_defocus_u,
    ctf_defocus_v,
    ctf_defocus_angle,
    ctf_phase_shift,
    ctf_bfactor,
    ctf_scale,
    ctf_magnification, ///< the first of four
};
inline constexpr int ctf_numbers = ctf_magnification + 4;

/// No factor is nearer to 0, as in RELION: what comes later may divide by it.
inline constexpr double smallest_factor = 1e-8;

/// A CTF made ready for many coefficients of windows of one side.
struct CtfTerms {
    double to_x[2]; ///< x of the frequency kx, ky in 1/Å
    double to_y[2];
    double second[3]; ///< of x x, x y and y y
    double fourth;
    double constant;
    double decay; ///< of the envelope, by s s
    double scale;
    std::span<const double> zernike;
    CtfUse use;
    bool intact_first_peak;
};

CRYOBOX_EXACT CtfTerms ctf_terms(std::span<const double> row, double side_angstrom, CtfUse use,
                                 bool intact_first_peak) noexcept {
    const double volts = row[ctf_voltage] * 1e3;
    const double lambda = 12.2643247 / std::sqrt(volts * (1 + volts * 0.978466e-6));
    const double cs = row[ctf_spherical_aberration] * 1e7;
    const exact::SineCosine angle = exact::sine_cosine(row[ctf_defocus_angle] * (exact::pi / 180));
    const double u = row[ctf_defocus_u];
    const double v = row[ctf_defocus_v];
    const double* const m = &row[ctf_magnification];
    CtfTerms terms;
    terms.to_x[0] = m[0] / side_angstrom;
    terms.to_x[1] = m[1] / side_angstrom;
    terms.to_y[0] = m[2] / side_angstrom;
    terms.to_y[1] = m[3] / side_angstrom;
    const double unit = -exact::pi * lambda;
    terms.second[0] = unit * (u * angle.cosine * angle.cosine + v * angle.sine * angle.sine);
    terms.second[1] = 2 * unit * ((u - v) * angle.sine * angle.cosine);
    terms.second[2] = unit * (u * angle.sine * angle.sine + v * angle.cosine * angle.cosine);
    terms.fourth = exact::pi / 2 * cs * lambda * lambda * lambda;
    terms.constant = -row[ctf_phase_shift] * (exact::pi / 180) - exact::arcsine(row[ctf_amplitude_contrast]);
    terms.decay = row[ctf_bfactor] / 4;
    terms.scale = row[ctf_scale];
    terms.zernike = row.subspan(ctf_numbers);
    terms.use = use;
    terms.intact_first_peak = intact_first_peak;
    return terms;
}

/// The even Zernike polynomial number `i` of RELION's list at (x, y): of degree n = 2k, with k the root of i, and
/// angular frequency m = 2 (i - k k - k), a cosine for m >= 0, else a sine.
CRYOBOX_EXACT double even_zernike(Index i, double x, double y) noexcept {
    Index k = 0;
    while ((k + 1) * (k + 1) <= i) {
        ++k;
    }
    const Index n = 2 * k;
    const Index m = 2 * (i - k * k - k);
    const Index order = m < 0 ? -m : m;
    double real = 1; // of (x + i y) to the power of `order`
    double imaginary = 0;
    for (Index j = 0; j < order; ++j) {
        const double next = real * x - imaginary * y;
        imaginary = real * y + imaginary * x;
        real = next;
    }
    const double square = x * x + y * y;
    const Index last = (n - order) / 2;
    // The radial polynomial over the power above, from its highest term down: each coefficient from the one before.
    double coefficient = 1;
    for (Index j = 0; j < last; ++j) { // n! / (((n + m) / 2)! ((n - m) / 2)!)
        coefficient = coefficient * static_cast<double>(n - j) / static_cast<double>(j + 1);
    }
    double radial = 0;
    for (Index j = 0; j <= last; ++j) {
        radial = radial * square + coefficient;
        const Index above = ((n + order) / 2 - j) * (last - j);
        coefficient = -coefficient * static_cast<double>(above) / static_cast<double>((n - j) * (j + 1));
    }
    return radial * (m < 0 ? imaginary : real);
}

/// What the coefficient of the frequencies kx, ky is multiplied by.
CRYOBOX_EXACT double ctf_factor(const CtfTerms& terms, double kx, double ky) noexcept {
    const double x = terms.to_x[0] * kx + terms.to_x[1] * ky;
    const double y = terms.to_y[0] * kx + terms.to_y[1] * ky;
    const double square = x * x + y * y;
    double gamma = terms.second[0] * x * x + terms.second[1] * x * y + terms.second[2] * y * y +
                   terms.fourth * square * square + terms.constant;
    for (std::size_t i = 0; i < terms.zernike.size(); ++i) {
        if (terms.zernike[i] != 0) {
            gamma += terms.zernike[i] * even_zernike(static_cast<Index>(i), x, y);
        }
    }
    const bool intact = terms.intact_first_peak && gamma < exact::pi / 2 && gamma > -exact::pi / 2;
    double factor = intact ? 1 : -exact::sine(gamma);
    if (terms.use == CtfUse::flip) { // an envelope does not change the sign
        factor = factor < 0 ? -1 : 1;
    } else if (terms.decay != 0) {
        factor *= exact::exponential(-terms.decay * square);
    }
    factor *= terms.scale;
    if (factor < smallest_factor && factor > -smallest_factor) {
        return factor < 0 ? -smallest_factor : smallest_factor;
    }
    return factor;
}

} // namespace cryobox
