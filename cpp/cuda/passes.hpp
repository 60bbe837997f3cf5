// The passes over pixels that a device makes, one class each. A pass is what one block of threads does; it is written
// against a team of threads, so that a processor can run the very same code thread after thread (tests/gpu does).
//
// Between two calls of `team.each` every thread waits for the others. What a thread keeps from one to the next lies in
// the block's shared memory. Sums run in a fixed tree: any device, any order of threads gives the same bits. This needs
// multiplications and additions to stay apart (-fmad=false, -ffp-contract=off).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "block.hpp"
#include "cryobox/half.hpp"
#include "cryobox/image.hpp"
#include "cryobox/normalize.hpp"
#include "cryobox/rules.hpp"
#include "cryobox/steps.hpp"

namespace cryobox::cuda {

/// The sums of `rows_per_slice` rows of every window. Blocks: (slices, particles).
struct WindowSums {
    static constexpr int threads = threads_of_sums;
    struct Shared {
        double sum[threads];
    };

    DeviceImage image;
    const Corner* corners;
    const Status* status;
    Index box;
    double* partial; ///< slices of particle 0, then of particle 1, ...

    template <class Team>
    CRYOBOX_DEVICE void operator()(const Team& team, const Block& block, Shared& shared) const {
        const Index n = block.y;
        if (status[n] != Status::ok) {
            return;
        }
        const Index begin = block.x * rows_per_slice;
        const Index end = begin + rows_per_slice < box ? begin + rows_per_slice : box;
        const auto top = static_cast<Index>(corners[n].y);
        const auto left = static_cast<Index>(corners[n].x);
        visit(image.pixels, [&]<PixelType type, bool swapped>() {
            team.each([&](int t) {
                double sum = 0;
                for (Index y = begin + t / lanes; y < end; y += threads / lanes) {
                    const std::byte* row = image.row(top + y);
                    for (Index x = t % lanes; x < box; x += lanes) {
                        sum += static_cast<double>(
                            pixel<type, swapped>(row, nearest_inside(left + x, image.pixels.width)));
                    }
                }
                shared.sum[t] = sum;
            });
        });
        reduce(team, threads, [&](int into, int from) { shared.sum[into] += shared.sum[from]; });
        team.each([&](int t) {
            if (t == 0) {
                partial[n * slices_of(box) + block.x] = shared.sum[0];
            }
        });
    }
};

/// Every window, as floats, minus its mean or as it is. Blocks: (slices, particles).
struct Gather {
    static constexpr int threads = threads_of_sums;
    struct Shared {
        double mean;
    };

    DeviceImage image;
    const Corner* corners;
    const double* partial;
    Index box;
    bool subtract;
    Status* status; ///< of a window with a pixel that is not finite: says so, by the block of its first slice
    double* means;
    float* windows;

    template <class Team>
    CRYOBOX_DEVICE void operator()(const Team& team, const Block& block, Shared& shared) const {
        const Index n = block.y;
        // Another block may be writing `not_finite` now: either way there is nothing wrong to gather.
        if (status[n] == Status::outside) {
            return;
        }
        const Index slices = slices_of(box);
        team.each([&](int t) {
            if (t == 0) {
                double sum = 0;
                for (Index i = 0; i < slices; ++i) {
                    sum += partial[n * slices + i];
                }
                shared.mean = sum / (static_cast<double>(box) * static_cast<double>(box));
                if (block.x == 0) {
                    means[n] = shared.mean;
                    if (!is_finite(shared.mean)) {
                        status[n] = Status::not_finite;
                    }
                }
            }
        });
        const double level = subtract && is_finite(shared.mean) ? shared.mean : 0;
        const Index begin = block.x * rows_per_slice;
        const Index end = begin + rows_per_slice < box ? begin + rows_per_slice : box;
        const auto top = static_cast<Index>(corners[n].y);
        const auto left = static_cast<Index>(corners[n].x);
        visit(image.pixels, [&]<PixelType type, bool swapped>() {
            team.each([&](int t) {
                for (Index y = begin + t / lanes; y < end; y += threads / lanes) {
                    const std::byte* row = image.row(top + y);
                    float* out = windows + (n * box + y) * box;
                    for (Index x = t % lanes; x < box; x += lanes) {
                        const float value = pixel<type, swapped>(row, nearest_inside(left + x, image.pixels.width));
                        out[x] = static_cast<float>(static_cast<double>(value) - level);
                    }
                }
            });
        });
    }
};

/// The columns that any output keeps, each made adjacent: from [particle][y][box / 2 + 1] to [particle][column][y].
/// Blocks: (tiles along y, tiles along the columns, particles).
struct ToColumns {
    static constexpr int threads = threads_of_sums;
    struct Shared {
        Coefficient cell[tile][tile + 1]; // one more, so that a column of it spreads over the banks
    };

    const Coefficient* rows;
    Index box;
    Index columns;
    Coefficient* to;

    template <class Team>
    CRYOBOX_DEVICE void operator()(const Team& team, const Block& block, Shared& shared) const {
        const Index y = block.x * tile;
        const Index k = block.y * tile;
        team.each([&](int t) {
            for (Index i = t / lanes; i < tile; i += threads / lanes) {
                const Index j = t % lanes;
                if (y + i < box && k + j < columns) {
                    shared.cell[i][j] = rows[(block.z * box + y + i) * (box / 2 + 1) + k + j];
                }
            }
        });
        team.each([&](int t) {
            for (Index j = t / lanes; j < tile; j += threads / lanes) {
                const Index i = t % lanes;
                if (y + i < box && k + j < columns) {
                    to[(block.z * columns + k + j) * box + y + i] = shared.cell[i][j];
                }
            }
        });
    }
};

/// Frequency `k` of a column of `box` that is cropped to `size`: at size / 2 the average of both signs.
CRYOBOX_DEVICE Coefficient folded(const Coefficient* column, Index box, Index size, Index k) {
    if (k != size / 2) {
        return column[place_of_frequency(k, box)];
    }
    const Coefficient plus = column[k];
    const Coefficient minus = column[place_of_frequency(-k, box)];
    return {.re = (plus.re + minus.re) * 0.5F, .im = (plus.im + minus.im) * 0.5F};
}

/// What an output keeps of the transform, times `scale`, as half spectra of its rows: from [particle][column][box] to
/// [particle][size][size / 2 + 1]. Columns 0 and size / 2 stand for both signs of their frequency: their Hermitian part
/// is what averages the two. Blocks: (tiles along the size, tiles along size / 2 + 1, particles).
struct Crop {
    static constexpr int threads = threads_of_sums;
    using Shared = ToColumns::Shared;

    const Coefficient* from;
    Index box;
    Index columns;
    Index size;
    float scale;
    Coefficient* to;

    template <class Team>
    CRYOBOX_DEVICE void operator()(const Team& team, const Block& block, Shared& shared) const {
        const Index kept = size / 2 + 1;
        const Index y = block.x * tile;
        const Index k = block.y * tile;
        team.each([&](int t) {
            for (Index j = t / lanes; j < tile; j += threads / lanes) {
                const Index i = t % lanes;
                if (y + i < size && k + j < kept) {
                    const Coefficient* column = from + (block.z * columns + k + j) * box;
                    const Index frequency = frequency_at(y + i, size);
                    Coefficient value = folded(column, box, size, frequency);
                    if (k + j == 0 || k + j == size / 2) {
                        const Coefficient mirror =
                            folded(column, box, size, frequency == size / 2 ? frequency : -frequency);
                        value = {.re = (value.re + mirror.re) * 0.5F, .im = (value.im - mirror.im) * 0.5F};
                    }
                    shared.cell[i][j] = {.re = value.re * scale, .im = value.im * scale};
                }
            }
        });
        team.each([&](int t) {
            for (Index i = t / lanes; i < tile; i += threads / lanes) {
                const Index j = t % lanes;
                if (y + i < size && k + j < kept) {
                    to[(block.z * size + y + i) * kept + k + j] = shared.cell[i][j];
                }
            }
        });
    }
};

/// Normalize or restore, invert, measure and store. One block per particle.
struct FinishImages {
    static constexpr int threads = threads_of_finish;
    struct Shared {
        double a[threads];
        double b[threads];
        double c[threads];
        double d[threads];
        double e[threads];
        double f[threads];
        float low[threads];
        float high[threads];
        BackgroundSums sums;
        Plane plane;
        Finishing how;
    };

    const float* images;
    Index size;
    PlaneFit fit;
    double radius;
    Steps steps;
    bool cropped; ///< its mean was taken out; added back where it is not normalized
    const double* means;
    Status* status;
    StackView stack;
    double* statistics;

    template <class Team>
    CRYOBOX_DEVICE void operator()(const Team& team, const Block& block, Shared& shared) const {
        const Index n = block.x;
        if (status[n] != Status::ok) {
            return;
        }
        const float* image = images + n * size * size;
        if (steps.normalize) {
            measure_background(team, image, means[n], shared);
        } else {
            team.each([&](int t) {
                if (t == 0) {
                    shared.how = restored(steps, cropped, means[n]);
                }
            });
        }
        if (shared.how.status == Status::ok) {
            store(team, image, n, shared);
        }
        team.each([&](int t) {
            if (t == 0 && shared.how.status != Status::ok) {
                status[n] = shared.how.status;
            }
        });
    }

private:
    /// Calls `work(value, i, j, whether it is background)` for every pixel of thread `t`; i, j from the image's center.
    template <class Work>
    CRYOBOX_DEVICE void over_pixels(const float* image, int t, const Work& work) const {
        const Index half = size / 2;
        for (Index y = t / lanes; y < size; y += threads / lanes) {
            for (Index x = t % lanes; x < size; x += lanes) {
                work(static_cast<double>(image[y * size + x]), static_cast<double>(y - half),
                     static_cast<double>(x - half), is_background(y - half, x - half, radius));
            }
        }
    }

    /// Whether a cropped image's background varies by more than rounding; the sums are over all its pixels.
    CRYOBOX_DEVICE bool is_contrast(double sd, double whole, double whole_square) const {
        const double pixels = static_cast<double>(size) * static_cast<double>(size);
        const double whole_mean = whole / pixels;
        const double whole_variance = whole_square / pixels - whole_mean * whole_mean;
        return has_cropped_contrast(sd, whole_variance > 0 ? std::sqrt(whole_variance) : 0);
    }

    template <class Team>
    CRYOBOX_DEVICE void measure_background(const Team& team, const float* image, double window_mean,
                                           Shared& shared) const {
        team.each([&](int t) {
            BackgroundSums sums;
            double whole = 0;
            double whole_square = 0;
            over_pixels(image, t, [&](double v, double i, double j, bool background) {
                whole += v;
                whole_square += v * v;
                if (background) {
                    sums.value += v;
                    sums.value_i += v * i;
                    sums.value_j += v * j;
                    sums.square += v * v;
                }
            });
            shared.a[t] = sums.value;
            shared.b[t] = sums.value_i;
            shared.c[t] = sums.value_j;
            shared.d[t] = sums.square;
            shared.e[t] = whole;
            shared.f[t] = whole_square;
        });
        reduce(team, threads, [&](int into, int from) {
            shared.a[into] += shared.a[from];
            shared.b[into] += shared.b[from];
            shared.c[into] += shared.c[from];
            shared.d[into] += shared.d[from];
            shared.e[into] += shared.e[from];
            shared.f[into] += shared.f[from];
        });
        team.each([&](int t) {
            if (t == 0) {
                shared.sums = BackgroundSums{
                    .value = shared.a[0], .value_i = shared.b[0], .value_j = shared.c[0], .square = shared.d[0]};
                shared.plane = subtracted(steps, fit, shared.sums);
            }
        });
        const Plane plane = shared.plane;
        team.each([&](int t) {
            double value = 0;
            double square = 0;
            over_pixels(image, t, [&](double v, double i, double j, bool background) {
                if (background) {
                    const double left = v - (plane.level + plane.slope_y * i + j * plane.slope_x);
                    value += left;
                    square += left * left;
                }
            });
            shared.a[t] = value;
            shared.b[t] = square;
        });
        reduce(team, threads, [&](int into, int from) {
            shared.a[into] += shared.a[from];
            shared.b[into] += shared.b[from];
        });
        team.each([&](int t) {
            if (t == 0) {
                const BackgroundSums left{.value = shared.a[0], .value_i = 0, .value_j = 0, .square = shared.b[0]};
                shared.how = normalized(steps, fit, shared.sums, shared.plane, left, window_mean);
                if (cropped && !is_contrast(shared.how.sd, shared.e[0], shared.f[0])) {
                    shared.how.status = Status::no_contrast;
                }
            }
        });
    }

    template <class Team>
    CRYOBOX_DEVICE void store(const Team& team, const float* image, Index n, Shared& shared) const {
        const Index half = size / 2;
        const Finish finish = shared.how.finish;
        team.each([&](int t) {
            float low = __builtin_inff();
            float high = -__builtin_inff();
            double deviation = 0;
            double square = 0;
            double beyond = 0;
            for (Index y = t / lanes; y < size; y += threads / lanes) {
                const double row_level = finish.plane.level + finish.plane.slope_y * static_cast<double>(y - half);
                for (Index x = t % lanes; x < size; x += lanes) {
                    const Index at = y * size + x;
                    const double plane = row_level + static_cast<double>(x - half) * finish.plane.slope_x;
                    const auto v = static_cast<float>((static_cast<double>(image[at]) - plane) * finish.scale);
                    low = v < low ? v : low;
                    high = v > high ? v : high;
                    const double d = static_cast<double>(v) - finish.shift;
                    deviation += d;
                    square += d * d;
                    if (stack.float32 != nullptr) {
                        stack.float32[n * size * size + at] = v;
                    } else {
                        const float below = v > largest_half ? largest_half : v;
                        beyond += v > largest_half || v < -largest_half ? 1 : 0;
                        stack.float16[n * size * size + at] = to_half(below < -largest_half ? -largest_half : below);
                    }
                }
            }
            shared.a[t] = deviation;
            shared.b[t] = square;
            shared.c[t] = beyond;
            shared.low[t] = low;
            shared.high[t] = high;
        });
        reduce(team, threads, [&](int into, int from) {
            shared.a[into] += shared.a[from];
            shared.b[into] += shared.b[from];
            shared.c[into] += shared.c[from];
            shared.low[into] = shared.low[from] < shared.low[into] ? shared.low[from] : shared.low[into];
            shared.high[into] = shared.high[from] > shared.high[into] ? shared.high[from] : shared.high[into];
        });
        team.each([&](int t) {
            if (t == 0) {
                const double count = static_cast<double>(size) * static_cast<double>(size);
                const double mean_left = shared.a[0] / count;
                const double variance = shared.b[0] / count - mean_left * mean_left;
                double* row = statistics + n * statistics_count;
                row[minimum] = static_cast<double>(shared.low[0]);
                row[maximum] = static_cast<double>(shared.high[0]);
                row[mean] = finish.shift + mean_left;
                row[standard_deviation] = variance > 0 ? std::sqrt(variance) : 0;
                row[background_mean] = shared.how.level;
                row[background_sd] = shared.how.sd;
                row[clamped] = shared.c[0];
                for (int column = dust; column < statistics_count; ++column) { // what GPUs have no step for
                    row[column] = 0;
                }
                if (!is_finite(mean_left)) {
                    shared.how.status = overflown(steps);
                }
            }
        });
    }
};

/// Zeros in place of every particle that is not `Status::ok`. One block per particle.
struct Clear {
    static constexpr int threads = threads_of_sums;
    struct Shared {};

    const Status* status;
    StackView stack;
    double* statistics;

    template <class Team>
    CRYOBOX_DEVICE void operator()(const Team& team, const Block& block, Shared& /*shared*/) const {
        const Index n = block.x;
        if (status[n] == Status::ok) {
            return;
        }
        const Index pixels = stack.size * stack.size;
        team.each([&](int t) {
            for (Index at = t; at < pixels; at += threads) {
                if (stack.float32 != nullptr) {
                    stack.float32[n * pixels + at] = 0;
                } else {
                    stack.float16[n * pixels + at] = Half{};
                }
            }
            if (t < statistics_count) {
                statistics[n * statistics_count + t] = 0;
            }
        });
    }
};

} // namespace cryobox::cuda
