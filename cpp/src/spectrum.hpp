// A window through Fourier space: transformed once, cropped to every size.
#pragma once

#include "cryobox/kernels.hpp"
#include "plan.hpp"
#include "window.hpp"
#include "workspace.hpp"

namespace cryobox {

/// The window, its mean taken out, into the columns of every output that is cropped.
void crop_columns(const Plan& plan, const Window& window, double mean, Workspace& workspace, Ahead& ahead) noexcept;

/// An output that is cropped, before it is finished: into `workspace.image`, without the window's mean.
void make_image(const Plan& plan, const OutputPlan& output, Workspace& workspace, Ahead& ahead) noexcept;

} // namespace cryobox
