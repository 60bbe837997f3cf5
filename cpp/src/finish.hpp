// The end of every image: normalized or restored, measured, stored.
#pragma once

#include "cryobox/image.hpp"
#include "cryobox/kernels.hpp"
#include "plan.hpp"
#include "workspace.hpp"

namespace cryobox {

/// Normalize or restore, invert, measure and store the image in `workspace.image` as particle `n`, cut at
/// `corner`. One that is cropped lacks the window's mean; one that isn't holds the pixels as they are. Fills a row of
/// `statistics` where it is ok.
Status finish_image(const Plan& plan, const OutputPlan& output, double window_mean, Index n, Corner corner,
                    Workspace& workspace, Ahead& ahead, double* statistics) noexcept;

/// Zeros in place of particle `n`.
void clear(const StackView& stack, Index n) noexcept;

} // namespace cryobox
