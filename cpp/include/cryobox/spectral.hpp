// What is done to a window while it is in Fourier space, and the factor of each of its coefficients. Plain functions of
// numbers: device code uses them as they are. Frequencies are whole numbers, in cycles per window.
#pragma once

#include <cmath>
#include <span>

#include "cryobox/ctf.hpp"
#include "cryobox/exact.hpp"
#include "cryobox/image.hpp"

namespace cryobox {

/// Edges of a filter, each half a cosine, as distances from the origin in Fourier pixels of the window. What lies below
/// `rise_begin` or above `fall_end` is 0.
struct Filter {
    double rise_begin = -2;
    double rise_end = -1;
    double fall_begin = HUGE_VAL;
    double fall_end = HUGE_VAL;
};

/// The factor of a coefficient at `distance` from the origin.
CRYOBOX_EXACT double filter_factor(const Filter& filter, double distance) noexcept {
    if (distance < filter.rise_begin || distance > filter.fall_end) {
        return 0;
    }
    double factor = 1;
    if (distance <= filter.rise_end) {
        const double part = (distance - filter.rise_begin) / (filter.rise_end - filter.rise_begin);
        factor = 0.5 - 0.5 * exact::sine_cosine(exact::pi * part).cosine;
    }
    if (distance >= filter.fall_begin) {
        const double part = (distance - filter.fall_begin) / (filter.fall_end - filter.fall_begin);
        factor *= 0.5 + 0.5 * exact::sine_cosine(exact::pi * part).cosine;
    }
    return factor;
}

/// How a shift by `pixels` turns the coefficient of frequency k of `box` points: exp(-2 pi i k pixels / box). At the
/// highest one, which stands for both signs, the mean of both: images stay real.
CRYOBOX_EXACT exact::SineCosine turn_of(Index k, double pixels, Index box) noexcept {
    const exact::SineCosine turn = exact::of_turns(-static_cast<double>(k) * pixels / static_cast<double>(box));
    return {.sine = 2 * k == box ? 0.0 : turn.sine, .cosine = turn.cosine};
}

/// The steps of a call between the transforms, beside the crop.
struct Spectral {
    bool filtered = false;
    Filter filter;
    std::span<const double> residual; ///< how far each window's image moves, (y, x) in pixels; empty: not at all
    CtfUse ctf_use = CtfUse::none;
    bool intact_first_peak = false;
    std::span<const double> ctf; ///< rows of `ctf_row` numbers, one for each window: see CtfNumber
    Index ctf_row = 0;
    Index ctf_window = 0;  ///< side of the windows in which the CTF is applied, at least the box
    double pixel_size = 0; ///< Å, for the CTF
    double fill = 0;       ///< what stands outside the micrograph meanwhile: its mean

    /// Whether images go through Fourier space whatever their size.
    [[nodiscard]] bool any() const noexcept { return moves() || ctf_use != CtfUse::none; }
    [[nodiscard]] bool moves() const noexcept { return filtered || !residual.empty(); }
    [[nodiscard]] std::span<const double> ctf_of(Index window) const noexcept {
        return ctf.subspan(static_cast<std::size_t>(window * ctf_row), static_cast<std::size_t>(ctf_row));
    }
};

} // namespace cryobox
