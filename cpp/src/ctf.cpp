// Factors are made once for windows in a row that have one CTF.
#include "ctf.hpp"

#include <algorithm>
#include <cstring>
#include <span>

#include "cryobox/crop.hpp"
#include "cryobox/ctf.hpp"
#include "cryobox/rules.hpp"

namespace cryobox {

namespace {

CtfTerms terms_of(const Plan& plan, Index n) noexcept {
    const Spectral& spectral = plan.options.spectral;
    return ctf_terms(spectral.ctf_of(n), static_cast<double>(spectral.ctf_window) * spectral.pixel_size,
                     spectral.ctf_use, spectral.intact_first_peak);
}

/// Whether `factors` are those of window number `n` already; they will be.
bool has_factors(const Plan& plan, Index n, Factors& factors) noexcept {
    const Index made = factors.window;
    factors.window = n;
    return made == n ||
           (made >= 0 && std::ranges::equal(plan.options.spectral.ctf_of(made), plan.options.spectral.ctf_of(n)));
}

/// Factors of adjacent rows of a column, as `ctf_factor` has them, in a loop that compilers make vectors of.
template <bool flip, bool intact>
void fill_rows(const CtfTerms& terms, double kx, int first, int count, double scale, float* out) noexcept {
    const double x_before = terms.to_x[0] * kx;
    const double y_before = terms.to_y[0] * kx;
    for (int i = 0; i < count; ++i) {
        const auto ky = static_cast<double>(first + i);
        const double x = x_before + terms.to_x[1] * ky;
        const double y = y_before + terms.to_y[1] * ky;
        const double square = x * x + y * y;
        const double gamma = terms.second[0] * x * x + terms.second[1] * x * y + terms.second[2] * y * y +
                             terms.fourth * square * square + terms.constant;
        double factor = -exact::sine(gamma);
        if constexpr (intact) {
            factor = gamma < exact::pi / 2 && gamma > -exact::pi / 2 ? 1.0 : factor;
        }
        if constexpr (flip) {
            factor = factor < 0 ? -1.0 : 1.0;
        }
        factor *= terms.scale;
        const double sign = factor < 0 ? -smallest_factor : smallest_factor;
        factor = factor < smallest_factor && factor > -smallest_factor ? sign : factor;
        out[i] = static_cast<float>(factor * scale);
    }
}

/// Factors of rows `first` ... of column `kx`, times `scale`.
void fill_rows(const CtfTerms& terms, double kx, Index first, Index count, double scale, float* out) noexcept {
    const bool flip = terms.use == CtfUse::flip;
    if (!terms.zernike.empty() || (terms.decay != 0 && !flip)) {
        for (Index i = 0; i < count; ++i) {
            out[i] = static_cast<float>(ctf_factor(terms, kx, static_cast<double>(first + i)) * scale);
        }
        return;
    }
    auto* fill = terms.intact_first_peak ? &fill_rows<false, true> : &fill_rows<false, false>;
    if (flip) {
        fill = terms.intact_first_peak ? &fill_rows<true, true> : &fill_rows<true, false>;
    }
    fill(terms, kx, static_cast<int>(first), static_cast<int>(count), scale, out);
}

/// Factors of the frequencies up to `highest` of both signs in columns of `side`.
void fill_columns(const CtfTerms& terms, Index side, Index columns, Index highest, double scale, float* out) noexcept {
    const Index negative = std::min(highest, side / 2 - 1); // the row of the highest frequency is the positive one
    for (Index k = 0; k < columns; ++k) {
        float* column = out + k * side;
        fill_rows(terms, static_cast<double>(k), 0, highest + 1, scale, column);
        fill_rows(terms, static_cast<double>(k), -negative, negative, scale, column + side - negative);
    }
}

/// A window of the micrograph of any side, filled outside; rows are read two by two.
struct Filled {
    const ImageView& image;
    Index top;
    Index left;
    Index side;
    Index first; // columns inside, counted in the window: [first, last)
    Index last;
    double fill;

    Filled(const ImageView& from, Corner corner, Index size, double outside) noexcept
        : image(from), top(static_cast<Index>(corner.y)), left(static_cast<Index>(corner.x)), side(size),
          first(std::clamp<Index>(-left, 0, size)), last(std::clamp<Index>(from.width - left, first, size)),
          fill(outside) {}

    [[nodiscard]] bool has_row(Index y) const noexcept {
        return top + y >= 0 && top + y < image.height && last > first;
    }

    [[nodiscard]] ImageView inside(Index y) const noexcept {
        ImageView view = image;
        view.data += (top + y) * image.row_stride + (left + first) * bytes_per_pixel(image.type);
        view.height = 1;
        view.width = last - first;
        return view;
    }

    [[nodiscard]] double sum(const Kernels& kernels) const noexcept {
        double total = 0;
        Index pixels = 0;
        for (Index y = 0; y < side; ++y) {
            if (has_row(y)) {
                total += kernels.sum(inside(y));
                pixels += last - first;
            }
        }
        return pixels == side * side ? total : total + fill * static_cast<double>(side * side - pixels);
    }

    void read(const Kernels& kernels, Index y, double level, float* row) const noexcept {
        const auto outside = static_cast<float>(fill - level);
        if (!has_row(y)) {
            std::fill(row, row + side, outside);
            return;
        }
        std::fill(row, row + first, outside);
        kernels.convert(inside(y), level, row + first, side);
        std::fill(row + last, row + side, outside);
    }
};

/// Pixels outside the micrograph become the nearest ones inside; `box` of them begin at `corner`.
void repeat_edges(const ImageView& image, Corner corner, Index box, float* pixels) noexcept {
    const Index top = std::max<Index>(-static_cast<Index>(corner.y), 0);
    const Index left = std::max<Index>(-static_cast<Index>(corner.x), 0);
    const Index bottom = std::min<Index>(image.height - static_cast<Index>(corner.y), box);
    const Index right = std::min<Index>(image.width - static_cast<Index>(corner.x), box);
    for (Index y = top; y < bottom; ++y) {
        float* row = pixels + y * box;
        std::fill(row, row + left, row[left]);
        std::fill(row + right, row + box, row[right - 1]);
    }
    const auto bytes = static_cast<std::size_t>(box) * sizeof(float);
    for (Index y = 0; y < box; ++y) {
        if (y < top || y >= bottom) {
            std::memcpy(pixels + y * box, pixels + (y < top ? top : bottom - 1) * box, bytes);
        }
    }
}

} // namespace

const float* factors_on_the_way(const Plan& plan, Index n, Workspace& workspace) noexcept {
    float* values = workspace.factors.values.data();
    if (has_factors(plan, n, workspace.factors)) {
        return values;
    }
    fill_columns(terms_of(plan, n), plan.box, plan.columns, plan.highest(), 1, values);
    if (plan.options.spectral.filtered) {
        for (Index at = 0; at < plan.columns * plan.box; ++at) {
            const Index row = frequency_at(at % plan.box, plan.box);
            if (row <= plan.highest() && -row <= plan.highest()) {
                values[at] *= plan.filter[static_cast<std::size_t>(at)];
            }
        }
    }
    return values;
}

double kept_of_mean(const Plan& plan, Index n) noexcept { return ctf_factor(terms_of(plan, n), 0, 0); }

double apply_ctf_apart(const Plan& plan, const ImageView& image, Corner corner, Index n,
                       Workspace& workspace) noexcept {
    const Kernels& kernels = plan.kernels;
    const Index side = plan.options.spectral.ctf_window;
    const Index around = (side - plan.box) / 2;
    const auto points = static_cast<double>(side) * static_cast<double>(side);
    const Filled window(image, Corner{.y = corner.y - around, .x = corner.x - around}, side,
                        plan.options.spectral.fill);
    const double mean = window.sum(kernels) / points;
    if (!std::isfinite(mean)) {
        return mean;
    }
    const Index columns = side / 2 + 1;
    const Index stride = column_stride(side);
    float* rows = workspace.rows.data();
    Complex* before = workspace.before.data();
    Complex* after = workspace.after.data();
    for (Index y = 0; y < side; y += 2) {
        window.read(kernels, y, mean, rows);
        window.read(kernels, y + 1, mean, rows + side);
        kernels.interleave(rows, rows + side, side, parts(before));
        (*plan.ctf_forward)(before, after);
        kernels.split(parts(after), side, columns, parts(workspace.columns.data() + y), stride);
    }
    float* factors = workspace.apart.values.data();
    if (!has_factors(plan, n, workspace.apart)) {
        fill_columns(terms_of(plan, n), side, columns, side / 2, 0.5 / points, factors); // `split` doubles
    }
    for (Index k = 0; k < columns; ++k) {
        Complex* column = workspace.columns.data() + k * stride;
        (*plan.ctf_forward)(column, after);
        kernels.weigh(parts(after), factors + k * side, side);
        (*plan.ctf_backward)(after, column);
    }
    for (Index y = 0; y < plan.box; y += 2) {
        kernels.join(parts(workspace.columns.data() + around + y), stride, side, parts(before));
        (*plan.ctf_backward)(before, after);
        kernels.separate(parts(after), side, rows, rows + side);
        float* pixels = workspace.treated.data() + y * plan.box;
        std::copy_n(rows + around, plan.box, pixels);
        std::copy_n(rows + side + around, plan.box, pixels + plan.box);
    }
    repeat_edges(image, corner, plan.box, workspace.treated.data());
    return mean * kept_of_mean(plan, n);
}

} // namespace cryobox
