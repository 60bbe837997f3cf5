// What the passes over an image measure, and what steps.hpp makes of it.
#include "finish.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cryobox/noise.hpp"
#include "cryobox/normalize.hpp"
#include "cryobox/steps.hpp"
#include "own_background.hpp"

namespace cryobox {

namespace {

/// Gaussian noise in place of the pixels that are dust; how many there are.
Index replace_dust(const Kernels& kernels, float* image, Index size, const Dust& dust, std::uint64_t key) noexcept {
    // Floats a little inside the limits find every pixel that may be beyond them; doubles decide.
    const double slack = 1e-6 * (std::abs(dust.level) + dust.sd);
    const auto narrowed = [&](double beyond) { return beyond - 1e-6 * beyond - slack; };
    const auto high = std::isfinite(dust.above) ? static_cast<float>(dust.level + narrowed(dust.above)) : HUGE_VALF;
    const auto low = std::isfinite(dust.below) ? static_cast<float>(dust.level - narrowed(dust.below)) : -HUGE_VALF;
    const Index pixels = size * size;
    const std::uint64_t stream = noise_stream(key, size);
    Index count = 0;
    for (Index at = kernels.find_beyond(image, 0, pixels, low, high); at < pixels;
         at = kernels.find_beyond(image, at + 1, pixels, low, high)) {
        if (dust.holds(static_cast<double>(image[at]))) {
            image[at] = static_cast<float>(dust.level + dust.sd * gaussian(stream, static_cast<std::uint64_t>(at)));
            ++count;
        }
    }
    return count;
}

/// The numbers of an image that need passes of their own; see `Statistic`.
void fill_measures(const Plan& plan, const OutputPlan& output, const Finishing& how, Index n, Workspace& workspace,
                   const Beside& beside, double* statistics) noexcept {
    const Background* background = output.background;
    const Background* middle = &plan.middle;
    if (!plan.options.axes.empty()) {
        background = &workspace.tube; // as `own_background` left it
        workspace.middle.outside_tube(output.stack.size, plan.options.axes[static_cast<std::size_t>(n)],
                                      output.radius / 2);
        middle = &workspace.middle;
    }
    const MeasureSums sums =
        plan.kernels.measure_sums(workspace.image.data(), background->runs(), middle->runs(), how.finish.plane, beside);
    const double variance = how.sd * how.sd;
    const double inside = sums.inside / sums.inside_count;
    statistics[contrast] = (plan.steps.invert ? -1 : 1) * sums.middle / sums.middle_count / how.sd;
    statistics[signal_to_noise] = (sums.inside_square / sums.inside_count - inside * inside) / variance - 1;
    statistics[local_variance] = sums.squares > 0 ? sums.local / sums.squares / variance : 0;
}

/// How an image is finished, and what was found on the way.
struct Measured {
    Finishing how;
    Index dust = 0;
    bool crowded = false;
};

/// How the image in `workspace.image` is normalized; what is not cropped loses the window's mean on the way.
Measured measure(const Plan& plan, const OutputPlan& output, double window_mean, Index n, Corner corner,
                 Workspace& workspace, const Beside& beside) noexcept {
    const Kernels& kernels = plan.kernels;
    const OwnBackground own = own_background(plan, output, n, corner, workspace);
    const Background& background = *own.background;
    const bool cropped = output.backward != nullptr;
    float* image = workspace.image.data();
    BackgroundSums sums = cropped ? kernels.background_sums(image, background.runs(), beside)
                                  : kernels.subtract_level(image, window_mean, background.runs(), beside);
    Measured result;
    result.crowded = own.crowded;
    if (replaces_dust(plan.steps)) {
        result.dust = replace_dust(kernels, image, output.stack.size, dust_of(plan.steps, background.fit(), sums),
                                   plan.options.noise[static_cast<std::size_t>(n)]);
        if (result.dust > 0) {
            sums = kernels.background_sums(image, background.runs(), beside);
        }
    }
    const Plane plane = subtracted(plan.steps, background.fit(), sums);
    const BackgroundSums left = kernels.residual_sums(image, background.runs(), plane, beside);
    result.how = normalized(plan.steps, background.fit(), sums, plane, left, window_mean);
    if (cropped && result.how.status == Status::ok &&
        !has_cropped_contrast(result.how.sd, kernels.root_mean_square(image, output.stack.size))) {
        result.how.status = Status::no_contrast;
    }
    return result;
}

} // namespace

Status finish_image(const Plan& plan, const OutputPlan& output, double window_mean, Index n, Corner corner,
                    Workspace& workspace, Ahead& ahead, double* statistics) noexcept {
    const bool cropped = output.backward != nullptr;
    const Beside beside{.by_column = workspace.by_column.data(), .ahead = ahead};
    const Measured measured = plan.steps.normalize ? measure(plan, output, window_mean, n, corner, workspace, beside)
                                                   : Measured{.how = restored(plan.steps, cropped, window_mean)};
    const Finishing& how = measured.how;
    if (how.status != Status::ok) {
        return how.status;
    }
    const Index size = output.stack.size;
    float* float32 = output.stack.float32 == nullptr ? nullptr : output.stack.float32 + n * size * size;
    Half* float16 = output.stack.float16 == nullptr ? nullptr : output.stack.float16 + n * size * size;
    const ImageStatistics result =
        plan.kernels.finish(workspace.image.data(), size, how.finish, float32, float16, beside);
    if (!result.finite) {
        return overflown(plan.steps);
    }
    statistics[minimum] = result.minimum;
    statistics[maximum] = result.maximum;
    statistics[mean] = result.mean;
    statistics[standard_deviation] = result.standard_deviation;
    statistics[background_mean] = how.level;
    statistics[background_sd] = how.sd;
    statistics[clamped] = static_cast<double>(result.clamped);
    statistics[dust] = static_cast<double>(measured.dust);
    statistics[crowded] = measured.crowded ? 1 : 0;
    std::fill(statistics + contrast, statistics + statistics_count, 0.0);
    if (plan.steps.measures && &output == &plan.outputs.front()) {
        fill_measures(plan, output, how, n, workspace, beside, statistics);
    }
    return Status::ok;
}

void clear(const StackView& stack, Index n) noexcept {
    const auto pixels = static_cast<std::size_t>(stack.size * stack.size);
    if (stack.float32 != nullptr) {
        std::memset(stack.float32 + n * stack.size * stack.size, 0, pixels * sizeof(float));
    } else {
        std::memset(static_cast<void*>(stack.float16 + n * stack.size * stack.size), 0, pixels * sizeof(Half));
    }
}

} // namespace cryobox
