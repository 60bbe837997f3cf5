// One-dimensional Fourier transforms: plans that are made once, shared by all workers and never change. No FFTW here.
#pragma once

#include <complex>
#include <cstdint>
#include <memory>
#include <string_view>

#include "cryobox/image.hpp"

struct fftwf_plan_s; // FFTW's own name; its header is included in fft_fftw.cpp only

namespace cryobox {

using Complex = std::complex<float>;

enum class Direction : std::uint8_t { forward, backward };

/// The transform of `length` adjacent complex numbers, unscaled.
///
/// Everything is made of this one kind, since it is FFTW's fastest (box 400: rows two by two as the parts of complex
/// ones take half the time of real-to-complex ones, adjacent columns a third of strided ones), and since its bits
/// depend on nothing but the length.
class Transform {
public:
    Transform(Index length, Direction direction);

    [[nodiscard]] Index length() const noexcept { return length_; }
    /// Both are aligned as the beginning of a `Buffer`; `from` is destroyed.
    void operator()(Complex* from, Complex* to) const noexcept;

private:
    struct Destroy {
        void operator()(fftwf_plan_s* plan) const noexcept;
    };
    Index length_;
    std::unique_ptr<fftwf_plan_s, Destroy> plan_;
};

/// The plan from the cache of this process; it stays valid until it ends.
/// @throws std::runtime_error if FFTW cannot plan, std::bad_alloc
const Transform& transform(Index length, Direction direction);

/// The version of the FFTW library that is loaded.
std::string_view fftw_version() noexcept;

} // namespace cryobox
