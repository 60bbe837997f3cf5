// A window through Fourier space: transformed once, filtered, shifted, cropped to every size.
#pragma once

#include "cryobox/kernels.hpp"
#include "plan.hpp"
#include "window.hpp"
#include "workspace.hpp"

namespace cryobox {

/// Window number `n`, its mean taken out, into the columns of every output that is made in Fourier space.
/// @returns what is left there of the mean, which the images lack
double crop_columns(const Plan& plan, const Window& window, double mean, Index n, Workspace& workspace,
                    Ahead& ahead) noexcept;

/// The same of the window in `workspace.treated`, which has its CTF and lacks its mean already.
double crop_treated(const Plan& plan, double mean, Index n, Workspace& workspace, Ahead& ahead) noexcept;

/// An output that is made in Fourier space, before it is finished: into `workspace.image`, without the window's mean.
void make_image(const Plan& plan, const OutputPlan& output, Workspace& workspace, Ahead& ahead) noexcept;

} // namespace cryobox
