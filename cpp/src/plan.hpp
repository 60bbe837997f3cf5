// Everything about a call that is decided before its first particle.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "cryobox/crop.hpp"
#include "cryobox/extract.hpp"
#include "cryobox/fft.hpp"
#include "cryobox/image.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/normalize.hpp"
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
    const Transform* forward = nullptr; ///< null: no output is cropped
    Index columns = 0;                  ///< columns of the window's transform that any output keeps
    Index neighbors = 0;                ///< the most that any window has
    Index fetches = 0;                  ///< calls in which the next window is asked for, spread over what takes longest

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

    /// Plan the transforms of all outputs that are cropped, and the pace at which the next window is asked for.
    void prepare() {
        const Index passes = steps.normalize ? 3 : 1; // over the rows of a window that is not cropped
        fetches = passes * box;
        for (OutputPlan& output : outputs) {
            if (output.stack.size < box) {
                forward = &transform(box, Direction::forward);
                output.backward = &transform(output.stack.size, Direction::backward);
                output.columns_begin = cropped_room_;
                const Index kept = output.stack.size / 2 + 1;
                columns = std::max(columns, kept);
                fetches = 2 * columns;
                cropped_room_ += kept * column_stride(output.stack.size);
            }
        }
    }

    void make_room(Workspace& workspace) const {
        const Index largest = outputs.front().stack.size;
        workspace.image.reserve(largest * largest);
        workspace.by_column.reserve(room_for_columns(largest));
        if (steps.normalize && !options.axes.empty()) {
            workspace.tube.make_room(largest, 0);
        }
        if (steps.normalize && !options.neighbors.empty()) {
            workspace.near.reserve(static_cast<std::size_t>(neighbors));
            workspace.alone.make_room(largest, neighbors);
        }
        if (forward != nullptr) {
            workspace.rows.reserve(2 * box);
            workspace.before.reserve(box);
            workspace.after.reserve(box);
            workspace.columns.reserve(columns * column_stride(box));
            workspace.cropped.reserve(cropped_room_);
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
    Index cropped_room_ = 0;
};

} // namespace cryobox
