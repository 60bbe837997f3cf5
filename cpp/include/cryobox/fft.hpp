// Fourier transforms for cropping: plans that are made once, shared by all workers and never change. No FFTW here.
// Everything handed to a plan is the beginning of a `Buffer`, since plans count on its alignment.
#pragma once

#include <complex>
#include <memory>
#include <string_view>

#include "cryobox/image.hpp"

struct fftwf_plan_s; // FFTW's own name; its header is included in fft_fftw.cpp only

namespace cryobox {

using Complex = std::complex<float>;

struct PlanDeleter {
    void operator()(fftwf_plan_s* plan) const noexcept;
};
using PlanHandle = std::unique_ptr<fftwf_plan_s, PlanDeleter>;

/// The forward transform of box x box real pixels, of which only the first `columns` columns are wanted:
/// rows first, some at a time, then only those columns.
class ForwardPlan {
  public:
    ForwardPlan(Index box, Index columns);

    [[nodiscard]] Index box() const noexcept { return box_; }
    [[nodiscard]] Index columns() const noexcept { return columns_; }
    /// Rows per call of `transform_rows`; at most `box`.
    [[nodiscard]] Index batch() const noexcept { return batch_; }
    /// `batch` rows of `box` floats into `batch` rows of box / 2 + 1 coefficients. Destroys `from`.
    void transform_rows(float* from, Complex* to) const noexcept;
    /// The columns of `box` rows of `columns` coefficients, in place.
    void transform_columns(Complex* spectrum) const noexcept;

  private:
    Index box_;
    Index columns_;
    Index batch_;
    PlanHandle rows_;
    PlanHandle columns_plan_;
};

/// The inverse transform to size x size real pixels, unscaled.
class InversePlan {
  public:
    explicit InversePlan(Index size);

    [[nodiscard]] Index size() const noexcept { return size_; }
    /// `size` rows of size / 2 + 1 coefficients, which it destroys, into the image.
    void transform(Complex* spectrum, float* image) const noexcept;

  private:
    Index size_;
    PlanHandle plan_;
};

/// Plans from the cache of this process; they stay valid until it ends.
/// @throws std::runtime_error if FFTW cannot plan, std::bad_alloc
const ForwardPlan& forward_plan(Index box, Index columns);
const InversePlan& inverse_plan(Index size);

/// Coefficients of a box (`box` rows of `columns`) to those of an image of `size`, times `scale`. At frequency
/// size / 2 both signs are averaged, which makes the crop the separable real operator of docs/conventions.md.
void crop_spectrum(const Complex* spectrum, Index box, Index columns, Complex* cropped, Index size,
                   float scale) noexcept;

std::string_view fftw_version() noexcept;

} // namespace cryobox
