// The CTF applied to windows: on their way through Fourier space, or apart, before it.
#pragma once

#include "cryobox/image.hpp"
#include "plan.hpp"
#include "workspace.hpp"

namespace cryobox {

/// Factors of the columns that window number `n` keeps, filter included, as Plan::filter is laid out.
const float* factors_on_the_way(const Plan& plan, Index n, Workspace& workspace) noexcept;

/// What window number `n` keeps of its mean when a CTF is applied.
double kept_of_mean(const Plan& plan, Index n) noexcept;

/// Window number `n` with its CTF, into `workspace.treated`, without its mean: transformed in a window that may be
/// larger and is filled outside the micrograph, then cut out of that, pixels outside repeated from the nearest one
/// inside.
/// @returns what is left of the larger window's mean; not finite if a pixel isn't
double apply_ctf_apart(const Plan& plan, const ImageView& image, Corner corner, Index n, Workspace& workspace) noexcept;

} // namespace cryobox
