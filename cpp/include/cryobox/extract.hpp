// The core's two calls: particles out of a micrograph, and Fourier-cropped images.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cryobox/image.hpp"
#include "cryobox/normalize.hpp"
#include "cryobox/rules.hpp"
#include "cryobox/spectral.hpp"
#include "cryobox/steps.hpp"

namespace cryobox {

/// How windows are cut, and what is made of each.
struct ExtractOptions {
    Index box = 0;
    bool pad = false; ///< repeat the nearest pixel where a window hangs over the edge, instead of refusing it
    Steps steps;
    Spectral spectral;
    std::vector<double> radii; ///< background radius in pixels, one per output; used only to normalize
    /// One per corner: the background lies outside a tube of that radius; none: outside a circle.
    std::vector<Axis> axes;
    /// Centers of particles in the micrograph, from the top down: what lies within the radius of one is no background.
    std::vector<Position> neighbors;
    std::vector<std::uint64_t> noise; ///< keys, one per corner; used only to replace dust
    int threads = 1;
};

/// Boxes beyond this are refused: a transform of one needs gigabytes.
inline constexpr Index largest_box = 32768;

/// Cut, crop and normalize the particle at every corner, into all outputs.
///
/// `status` has n entries, `statistics` k * n rows of `statistics_count` numbers, output by output. Particles that are
/// not `Status::ok` are zeros in every output. Any number of threads gives the same bits.
/// @throws std::invalid_argument before anything is written; std::bad_alloc; std::runtime_error if FFTW cannot plan
void extract(const ImageView& image, std::span<const Corner> corners, std::span<const StackView> outputs,
             const ExtractOptions& options, std::span<Status> status, std::span<double> statistics);

/// Crop `count` images of `box` x `box` to `size` x `size` in Fourier space, gray levels kept. Pixels that are not
/// finite spread over their image.
void fourier_crop(const float* images, Index count, Index box, float* output, Index size, int threads);

/// Mean of all pixels of an image that has some; not finite if one of them isn't.
/// @throws std::invalid_argument
double mean_of(const ImageView& image);

bool has_openmp() noexcept;
int max_threads() noexcept;

} // namespace cryobox
