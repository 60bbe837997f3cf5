// The passes over pixels, in as many builds as there are instruction sets worth having. Every build gives the same
// bits: sums run in lanes of a fixed number, whatever the registers hold.
#pragma once

#include <span>
#include <string_view>

#include "cryobox/image.hpp"
#include "cryobox/normalize.hpp"
#include "cryobox/steps.hpp"

namespace cryobox {

struct ImageStatistics {
    double minimum = 0;
    double maximum = 0;
    double mean = 0;
    double standard_deviation = 0;
    Index clamped = 0;
    bool finite = true;
};

/// Memory that is needed next, asked for a few cache lines at a time while other work goes on: its rows lie thousands
/// of bytes apart, where no processor expects them, and processors drop what is asked for faster than it comes.
class Ahead {
public:
    /// Nothing comes next.
    Ahead() = default;
    /// All of `pixels`, in so many calls of `fetch`.
    Ahead(const ImageView& pixels, Index calls) noexcept
        : row_(pixels.data + (pixels.height - 1) * pixels.row_stride), stride_(pixels.row_stride),
          bytes_(pixels.width * bytes_per_pixel(pixels.type)), rows_(pixels.height),
          requests_(rows_ * ((bytes_ - 1) / line + 2) / calls + 1) {}

    /// Ask for some of what is left, the last row first.
    [[gnu::always_inline]] void fetch() noexcept {
        for (Index left = requests_; left > 0 && rows_ > 0; --left) {
            __builtin_prefetch(row_ + at_, 0, 2);
            if (at_ == bytes_ - 1) {
                row_ -= --rows_ > 0 ? stride_ : 0;
                at_ = 0;
            } else {
                at_ = at_ + line < bytes_ ? at_ + line : bytes_ - 1;
            }
        }
    }

    [[nodiscard]] bool done() const noexcept { return rows_ == 0; }

private:
    static constexpr Index line = 64;
    const std::byte* row_ = nullptr;
    Index stride_ = 0;
    Index bytes_ = 1;
    Index rows_ = 0;
    Index requests_ = 0; // per call
    Index at_ = 0;
};

/// What a pass over the rows of an image has beside it.
struct Beside {
    double* by_column; ///< for what depends on the column alone; room for `room_for_columns(size)`
    Ahead& ahead;      ///< fetches once a row
};

/// Numbers that a pass over an image of `size` tabulates, with lanes to spare.
constexpr Index room_for_columns(Index size) noexcept { return size + 16; }

/// One build of the passes.
struct Kernels {
    std::string_view name;
    /// Sum of all pixels of a view; not finite if and only if one of them isn't.
    double (*sum)(const ImageView& pixels) noexcept;
    /// Every pixel as a float, into rows of `stride` floats, and their sum, with the bits of `sum`.
    double (*take)(const ImageView& pixels, float* out, Index stride) noexcept;
    /// Every pixel minus `level`, subtracted in double and rounded once, into rows of `stride` floats.
    void (*convert)(const ImageView& pixels, double level, float* out, Index stride) noexcept;
    /// The two rows of a view, as `convert` makes them, as one complex row.
    void (*convert_pair)(const ImageView& rows, double level, float* both) noexcept;

    // The steps of a Fourier crop between its transforms; crop.hpp shows their order. A complex number is two adjacent
    // floats, as std::complex<float> is; lengths and strides count complex numbers.

    /// Two rows as one.
    void (*interleave)(const float* first, const float* second, Index length, float* both) noexcept;
    void (*separate)(const float* both, Index length, float* first, float* second) noexcept;
    /// From the transform of two rows as one, the first `columns` coefficients of each, times 2, into places 0 and 1
    /// of every column. `columns` is at most half the length and one more.
    void (*split)(const float* both, Index length, Index columns, float* to, Index stride) noexcept;
    /// Complex numbers times real factors.
    void (*weigh)(float* numbers, const float* factors, Index count) noexcept;
    /// Complex numbers times other ones and a common one.
    void (*turn)(float* numbers, const float* turns, float real, float imaginary, Index count) noexcept;
    /// The coefficients of a column of `box` that a column of `size` keeps, times `scale`: those below frequency
    /// size / 2, and the average of both signs there.
    void (*crop_column)(const float* column, Index box, float* cropped, Index size, float scale) noexcept;
    /// The inverse of `split`, without its factor: places 0 and 1 of size / 2 + 1 columns into the coefficients of two
    /// real rows as one. Only the real part of columns 0 and size / 2 counts, which is what averages both signs of
    /// frequency size / 2 along the row.
    void (*join)(const float* columns, Index stride, Index size, float* both) noexcept;

    /// Root mean square of an image about its mean, which must be near 0.
    double (*root_mean_square)(const float* image, Index size) noexcept;

    /// The first pixel from number `begin` on that is above `high` or below `low`; else `pixels`.
    Index (*find_beyond)(const float* image, Index begin, Index pixels, float low, float high) noexcept;

    /// Sums over the background of an image.
    BackgroundSums (*background_sums)(const float* image, const BackgroundRuns& background,
                                      const Beside& beside) noexcept;
    /// The same after `level` is taken out of every pixel of the image, as `convert` does it.
    BackgroundSums (*subtract_level)(float* image, double level, const BackgroundRuns& background,
                                     const Beside& beside) noexcept;
    /// Sum and sum of squares of what a plane leaves of the background.
    BackgroundSums (*residual_sums)(const float* image, const BackgroundRuns& background, const Plane& plane,
                                    const Beside& beside) noexcept;
    /// Sums over what a plane leaves of an image: over the pixels that `middle` and `background` do not have, and the
    /// variances of all whole squares of 8 x 8 pixels.
    MeasureSums (*measure_sums)(const float* image, const BackgroundRuns& background, const BackgroundRuns& middle,
                                const Plane& plane, const Beside& beside) noexcept;
    /// The last pass: `image` finished into `float32` or `float16`, whichever is set. The statistics are those of the
    /// float32 values.
    ImageStatistics (*finish)(const float* image, Index size, const Finish& finish, float* float32, Half* float16,
                              const Beside& beside) noexcept;
};

/// The best build that this processor runs; chosen once.
const Kernels& kernels() noexcept;

/// All builds that this processor runs, plainest first.
std::span<const Kernels* const> runnable_kernels() noexcept;

} // namespace cryobox
