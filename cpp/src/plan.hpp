// Everything about a call that is decided before its first particle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "cryobox/crop.hpp"
#include "cryobox/extract.hpp"
#include "cryobox/fft.hpp"
#include "cryobox/image.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/normalize.hpp"
#include "cryobox/rules.hpp"
#include "cryobox/spectral.hpp"
#include "cryobox/steps.hpp"
#include "workspace.hpp"

namespace cryobox {

/// One output's share of a plan.
struct OutputPlan {
    StackView stack;
    const Background* background = nullptr; ///< null: nothing is normalized
    const Transform* backward = nullptr;    ///< null: the window as it is
    Index columns_begin = 0;                ///< where its columns stand in Workspace::cropped
    double radius = 0;                      ///< of the background, in its pixels
};

/// Shared by the threads of a call, never changed once it is prepared.
struct Plan {
    const Kernels& kernels;
    const Index box;
    const Steps steps;
    const ExtractOptions& options; ///< what each window has of its own
    std::vector<OutputPlan> outputs;
    std::vector<float> filter;              ///< factors of the kept columns, one after the other, `box` numbers each
    const Transform* forward = nullptr;     ///< null: nothing is transformed
    const Transform* ctf_forward = nullptr; ///< null: no CTF is applied
    const Transform* ctf_backward = nullptr;
    Index columns = 0;   ///< columns of the window's transform that any output keeps
    Index passed = 0;    ///< the first of these: a filter leaves nothing of the others
    Index neighbors = 0; ///< the most that any window has
    Background middle;   ///< with measures: all but the middle of the first output, unless in a tube
    Index fetches = 0;   ///< calls in which the next window is asked for, spread over what takes longest

    /// @param backgrounds one per output, or none where nothing is normalized
    Plan(const ExtractOptions& asked, std::span<const StackView> stacks, std::span<const Background> backgrounds)
        : kernels(cryobox::kernels()), box(asked.box), steps(asked.steps), options(asked) {
        outputs.reserve(stacks.size());
        for (std::size_t k = 0; k < stacks.size(); ++k) {
            outputs.push_back({.stack = stacks[k],
                               .background = backgrounds.empty() ? nullptr : &backgrounds[k],
                               .radius = steps.normalize ? asked.radii[k] : 0.0});
        }
    }

    /// Plan the transforms of all outputs that are made in Fourier space, and the pace at which the next window is
    /// asked for.
    void prepare() {
        if (steps.measures && options.axes.empty()) {
            middle.make_room(outputs.front().stack.size, 0);
            middle.outside_circle(outputs.front().stack.size, outputs.front().radius / 2);
        }
        const Index passes = steps.normalize ? 3 : 1; // over the rows of a window that is not cropped
        fetches = passes * box;
        for (OutputPlan& output : outputs) {
            if (output.stack.size < box || options.spectral.any()) {
                forward = &transform(box, Direction::forward);
                output.backward = &transform(output.stack.size, Direction::backward);
                output.columns_begin = cropped_room_;
                const Index kept = output.stack.size / 2 + 1;
                columns = std::max(columns, kept);
                fetches = 2 * columns;
                cropped_room_ += kept * column_stride(output.stack.size);
            }
        }
        if (options.spectral.ctf_use != CtfUse::none) {
            ctf_forward = &transform(options.spectral.ctf_window, Direction::forward);
            ctf_backward = &transform(options.spectral.ctf_window, Direction::backward);
        }
        passed = columns;
        if (options.spectral.filtered) {
            const double last =
                std::floor(std::min(options.spectral.filter.fall_end, static_cast<double>(columns - 1)));
            passed = static_cast<Index>(std::max(last, 0.0)) + 1;
            fill_filter();
        }
    }

    /// The highest frequency that any output keeps.
    [[nodiscard]] Index highest() const noexcept { return columns - 1; }

    /// Whether a window goes through Fourier space apart, for its CTF: in a larger window, or with pixels outside.
    [[nodiscard]] bool ctf_apart(const ImageView& image, Corner corner) const noexcept {
        const Spectral& spectral = options.spectral;
        return spectral.ctf_use != CtfUse::none &&
               (spectral.ctf_window > box || place(corner.y, box, image.height) != Placement::inside ||
                place(corner.x, box, image.width) != Placement::inside);
    }

    void make_room(Workspace& workspace) const {
        const Index largest = outputs.front().stack.size;
        workspace.image.reserve(largest * largest);
        workspace.by_column.reserve(room_for_columns(largest));
        if (steps.normalize && !options.axes.empty()) {
            workspace.tube.make_room(largest, 0);
            workspace.middle.make_room(steps.measures ? largest : 0, 0);
        }
        if (steps.normalize && !options.neighbors.empty()) {
            workspace.near.reserve(static_cast<std::size_t>(neighbors));
            workspace.alone.make_room(largest, neighbors);
        }
        if (forward != nullptr || steps.measures) {
            workspace.rows.reserve(2 * box);
        }
        if (forward != nullptr) {
            workspace.before.reserve(box);
            workspace.after.reserve(box);
            workspace.columns.reserve(columns * column_stride(box));
            workspace.cropped.reserve(cropped_room_);
        }
        if (options.spectral.ctf_use != CtfUse::none) {
            const Index side = options.spectral.ctf_window;
            workspace.rows.reserve(2 * side);
            workspace.before.reserve(side);
            workspace.after.reserve(side);
            workspace.columns.reserve((side / 2 + 1) * column_stride(side));
            workspace.factors.values.reserve(columns * box);
            workspace.apart.values.reserve((side / 2 + 1) * side);
            workspace.treated.reserve(box * box);
            workspace.factors.window = workspace.apart.window = -1;
        }
        if (!options.spectral.residual.empty()) {
            workspace.turns.reserve(2 * box);
        }
    }

    /// How far neighbors are looked for from a window's center, in pixels of the micrograph.
    [[nodiscard]] double reach() const noexcept {
        double found = 0;
        for (const OutputPlan& output : outputs) {
            found = std::max(found, output.radius * static_cast<double>(box) / static_cast<double>(output.stack.size));
        }
        return static_cast<double>(box) / 2 + found + 1;
    }

private:
    void fill_filter() {
        filter.assign(static_cast<std::size_t>(columns * box), 0.0F);
        for (Index k = 0; k < columns; ++k) {
            for (Index y = 0; y < box; ++y) {
                const Index row = frequency_at(y, box);
                if (row <= highest() && -row <= highest()) {
                    const double distance = std::sqrt(static_cast<double>(k * k + row * row));
                    filter[static_cast<std::size_t>(k * box + y)] =
                        static_cast<float>(filter_factor(options.spectral.filter, distance));
                }
            }
        }
    }

    Index cropped_room_ = 0;
};

} // namespace cryobox
