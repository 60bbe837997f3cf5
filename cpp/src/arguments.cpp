// The checks of arguments; every backend makes them first.
#include "cryobox/arguments.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace cryobox {

void require(bool condition, const char* message) {
    if (!condition) {
        throw std::invalid_argument(message);
    }
}

void check_box(const char* message, Index size, Index most) {
    require(size >= 2 && size % 2 == 0 && size <= most, message);
}

void check_image(const ImageView& image) {
    require(image.height >= 0 && image.width >= 0, "the image has a negative side");
    require(image.width <= std::numeric_limits<Index>::max() / 8, "the image is too wide");
    require(image.height <= 1 || image.row_stride >= image.width * bytes_per_pixel(image.type),
            "rows of the image must not overlap, and must follow each other downward");
}

namespace {

void check_ctf(const ExtractOptions& options, std::size_t count) {
    const Spectral& spectral = options.spectral;
    if (spectral.ctf_use == CtfUse::none) {
        return;
    }
    require(spectral.ctf_row >= ctf_numbers &&
                spectral.ctf.size() == count * static_cast<std::size_t>(spectral.ctf_row),
            "a CTF is needed for every corner");
    check_box("the window of the CTF must be an even number of pixels, at least the box and at most 32768",
              spectral.ctf_window, largest_box);
    require(spectral.ctf_window >= options.box, "the window of the CTF must be at least the box");
    require(std::isfinite(spectral.pixel_size) && spectral.pixel_size > 0, "a CTF needs a pixel size above 0");
}

} // namespace

void check_arguments(std::span<const Corner> corners, std::span<const StackView> outputs, const ExtractOptions& options,
                     std::span<const Status> status, std::span<const double> statistics) {
    check_box("box must be an even number of pixels, at least 2 and at most 32768", options.box, largest_box);
    require(!outputs.empty(), "at least one output is needed");
    Index previous = options.box + 1;
    for (const StackView& output : outputs) {
        check_box("every output must have an even size, at least 2, at most the box; largest first, all different",
                  output.size, previous - 1);
        previous = output.size;
        require((output.float32 == nullptr) != (output.float16 == nullptr) || corners.empty(),
                "every output must be float32 or float16");
    }
    require(!options.steps.normalize || options.radii.size() == outputs.size(),
            "one radius is needed for every output");
    require(std::isfinite(options.steps.scale_const) && options.steps.scale_const >= 0,
            "scale_const must be a positive number, or 0 for each particle's own");
    const double white = options.steps.white_dust;
    const double black = options.steps.black_dust;
    require(std::isfinite(white) && white >= 0 && std::isfinite(black) && black >= 0,
            "white_dust and black_dust must be positive numbers, or 0 for none");
    require(!replaces_dust(options.steps) || options.steps.normalize, "dust is replaced in normalized images only");
    require(!options.steps.measures || options.steps.normalize, "only normalized images are measured");
    require(!replaces_dust(options.steps) || options.noise.size() == corners.size(),
            "one key of noise is needed for every corner");
    require(options.axes.empty() || options.axes.size() == corners.size(), "one axis is needed for every corner");
    require(std::ranges::all_of(options.axes,
                                [](const Axis& axis) {
                                    return std::abs(axis.cosine) <= 1 && std::abs(axis.sine) <= 1 &&
                                           axis.cosine * axis.cosine + axis.sine * axis.sine > 0.5;
                                }),
            "every axis must be the cosine and sine of an angle");
    require(std::ranges::all_of(options.neighbors,
                                [](const Position& one) { return std::isfinite(one.y) && std::isfinite(one.x); }) &&
                std::ranges::is_sorted(options.neighbors, {}, &Position::y),
            "neighbors must be finite, from the top of the micrograph down");
    require(options.spectral.residual.empty() || options.spectral.residual.size() == 2 * corners.size(),
            "one residual (y, x) is needed for every corner");
    require(std::ranges::all_of(options.spectral.residual, [](double pixels) { return std::isfinite(pixels); }),
            "residuals must be finite numbers");
    check_ctf(options, corners.size());
    require(status.size() == corners.size(), "one status is needed for every corner");
    require(statistics.size() == corners.size() * outputs.size() * statistics_count,
            "statistics need a row for every output and corner");
}

} // namespace cryobox
