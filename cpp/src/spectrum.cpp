// Rows two by two, columns one by one; crop.hpp shows the order of the steps.
#include "spectrum.hpp"

#include <algorithm>

#include "cryobox/crop.hpp"
#include "ctf.hpp"

namespace cryobox {

namespace {

/// Calls `work(begin, count)` for the rows of a column that any output keeps: frequencies of both signs.
template <class Work>
void for_kept_rows(const Plan& plan, const Work& work) noexcept {
    const Index highest = plan.highest();
    if (2 * highest + 1 >= plan.box) {
        work(0, plan.box);
    } else {
        work(0, highest + 1);
        work(plan.box - highest, highest);
    }
}

/// How the shift of a window turns the rows of every column.
void fill_turns(const Plan& plan, double pixels, float* turns) noexcept {
    for (Index k = 0; k <= plan.highest(); ++k) {
        const exact::SineCosine turn = turn_of(k, pixels, plan.box);
        const Index mirrored = k == 0 ? 0 : plan.box - k;
        turns[2 * mirrored] = static_cast<float>(turn.cosine);
        turns[2 * mirrored + 1] = static_cast<float>(-turn.sine);
        turns[2 * k] = static_cast<float>(turn.cosine);
        turns[2 * k + 1] = static_cast<float>(turn.sine);
    }
}

/// Rows, two by two, from `read_pair(y, both)`, into the columns of every output; `factors` may be none.
template <class ReadPair>
void columns_from(const Plan& plan, const ReadPair& read_pair, const float* factors, Index n, Workspace& workspace,
                  Ahead& ahead) noexcept {
    const Kernels& kernels = plan.kernels;
    Complex* before = workspace.before.data();
    Complex* after = workspace.after.data();
    const Index stride = column_stride(plan.box);
    for (Index y = 0; y < plan.box; y += 2) {
        read_pair(y, before);
        (*plan.forward)(before, after);
        kernels.split(parts(after), plan.box, plan.passed, parts(workspace.columns.data() + y), stride);
    }
    const double points = static_cast<double>(plan.box) * static_cast<double>(plan.box);
    const auto scale = static_cast<float>(0.5 / points); // `split` doubles
    const double* residual =
        plan.options.spectral.residual.empty() ? nullptr : plan.options.spectral.residual.data() + 2 * n;
    float* turns = workspace.turns.data();
    if (residual != nullptr) {
        fill_turns(plan, residual[0], turns);
    }
    for (Index k = 0; k < plan.passed; ++k) {
        ahead.fetch();
        (*plan.forward)(workspace.columns.data() + k * stride, after);
        float* column = parts(after);
        if (factors != nullptr) {
            const float* of_column = factors + k * plan.box;
            for_kept_rows(plan, [&](Index begin, Index count) noexcept {
                kernels.weigh(column + 2 * begin, of_column + begin, count);
            });
        }
        if (residual != nullptr) {
            const exact::SineCosine turn = turn_of(k, residual[1], plan.box);
            for_kept_rows(plan, [&](Index begin, Index count) noexcept {
                kernels.turn(column + 2 * begin, turns + 2 * begin, static_cast<float>(turn.cosine),
                             static_cast<float>(turn.sine), count);
            });
        }
        for (const OutputPlan& output : plan.outputs) {
            const Index size = output.stack.size;
            if (output.backward != nullptr && k <= size / 2) {
                kernels.crop_column(column, plan.box, parts(before), size, scale);
                ahead.fetch();
                (*output.backward)(before, workspace.cropped.data() + output.columns_begin + k * column_stride(size));
            }
        }
    }
    for (Index k = plan.passed; k < plan.columns; ++k) {
        ahead.fetch();
        for (const OutputPlan& output : plan.outputs) {
            const Index size = output.stack.size;
            if (output.backward != nullptr && k <= size / 2) {
                ahead.fetch();
                std::fill_n(workspace.cropped.data() + output.columns_begin + k * column_stride(size), size, Complex{});
            }
        }
    }
}

} // namespace

double crop_columns(const Plan& plan, const Window& window, double mean, Index n, Workspace& workspace,
                    Ahead& ahead) noexcept {
    const Spectral& spectral = plan.options.spectral;
    const bool with_ctf = spectral.ctf_use != CtfUse::none;
    const float* factors = spectral.filtered ? plan.filter.data() : nullptr;
    if (with_ctf) {
        factors = factors_on_the_way(plan, n, workspace);
    }
    const auto read_pair = [&](Index y, Complex* both) noexcept {
        window.read_pair(plan.kernels, y, mean, workspace.rows.data(), both);
    };
    columns_from(plan, read_pair, factors, n, workspace, ahead);
    const double kept = with_ctf ? mean * kept_of_mean(plan, n) : mean;
    return spectral.filtered ? kept * filter_factor(spectral.filter, 0) : kept;
}

double crop_treated(const Plan& plan, double mean, Index n, Workspace& workspace, Ahead& ahead) noexcept {
    const Spectral& spectral = plan.options.spectral;
    const auto read_pair = [&](Index y, Complex* both) noexcept {
        const float* rows = workspace.treated.data() + y * plan.box;
        plan.kernels.interleave(rows, rows + plan.box, plan.box, parts(both));
    };
    columns_from(plan, read_pair, spectral.filtered ? plan.filter.data() : nullptr, n, workspace, ahead);
    return spectral.filtered ? mean * filter_factor(spectral.filter, 0) : mean;
}

void make_image(const Plan& plan, const OutputPlan& output, Workspace& workspace, Ahead& ahead) noexcept {
    float* image = workspace.image.data();
    const Index size = output.stack.size;
    for (Index y = 0; y < size; y += 2) {
        ahead.fetch();
        plan.kernels.join(parts(workspace.cropped.data() + output.columns_begin + y), column_stride(size), size,
                          parts(workspace.before.data()));
        (*output.backward)(workspace.before.data(), workspace.after.data());
        plan.kernels.separate(parts(workspace.after.data()), size, image + y * size, image + (y + 1) * size);
    }
}

} // namespace cryobox
