// What the passes over an image measure, and what steps.hpp makes of it.
#include "finish.hpp"

#include <cstring>

#include "cryobox/normalize.hpp"
#include "cryobox/steps.hpp"

namespace cryobox {

namespace {

/// How the image in `workspace.image` is normalized; what is not cropped loses the window's mean on the way.
Finishing measure(const Plan& plan, const OutputPlan& output, double window_mean, Workspace& workspace,
                  const Beside& beside) noexcept {
    const Kernels& kernels = plan.kernels;
    const Background& background = *output.background;
    const bool cropped = output.backward != nullptr;
    float* image = workspace.image.data();
    const BackgroundSums sums = cropped ? kernels.background_sums(image, background.runs(), beside)
                                        : kernels.subtract_level(image, window_mean, background.runs(), beside);
    const Plane plane = subtracted(plan.steps, background.fit(), sums);
    const BackgroundSums left = kernels.residual_sums(image, background.runs(), plane, beside);
    Finishing result = normalized(plan.steps, background.fit(), sums, plane, left, window_mean);
    if (cropped && result.status == Status::ok &&
        !has_cropped_contrast(result.sd, kernels.root_mean_square(image, output.stack.size))) {
        result.status = Status::no_contrast;
    }
    return result;
}

} // namespace

Status finish_image(const Plan& plan, const OutputPlan& output, double window_mean, Index n, Workspace& workspace,
                    Ahead& ahead, double* statistics) noexcept {
    const bool cropped = output.backward != nullptr;
    const Beside beside{.by_column = workspace.by_column.data(), .ahead = ahead};
    const Finishing how = plan.steps.normalize ? measure(plan, output, window_mean, workspace, beside)
                                               : restored(plan.steps, cropped, window_mean);
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
