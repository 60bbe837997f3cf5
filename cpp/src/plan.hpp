// Everything about a call that is decided before its first particle.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "cryobox/crop.hpp"
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
};

/// Shared by the threads of a call, never changed once it is prepared.
struct Plan {
    const Kernels& kernels;
    const Index box;
    const Steps steps;
    std::vector<OutputPlan> outputs;
    const Transform* forward = nullptr; ///< null: no output is cropped
    Index columns = 0;                  ///< columns of the window's transform that any output keeps
    Index fetches = 0;                  ///< calls in which the next window is asked for, spread over what takes longest

    /// @param backgrounds one per output, or none where nothing is normalized
    Plan(Index side, const Steps& chosen, std::span<const StackView> stacks, std::span<const Background> backgrounds)
        : kernels(cryobox::kernels()), box(side), steps(chosen) {
        outputs.reserve(stacks.size());
        for (std::size_t k = 0; k < stacks.size(); ++k) {
            outputs.push_back({.stack = stacks[k], .background = backgrounds.empty() ? nullptr : &backgrounds[k]});
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
        if (forward != nullptr) {
            workspace.rows.reserve(2 * box);
            workspace.before.reserve(box);
            workspace.after.reserve(box);
            workspace.columns.reserve(columns * column_stride(box));
            workspace.cropped.reserve(cropped_room_);
        }
    }

private:
    Index cropped_room_ = 0;
};

} // namespace cryobox
