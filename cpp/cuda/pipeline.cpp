// What is asked of a device, in which order and in how many pieces. No CUDA here.
#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "call.hpp"
#include "cryobox/arguments.hpp"
#include "cryobox/cuda.hpp"
#include "cryobox/normalize.hpp"
#include "workspace.hpp"

namespace cryobox::cuda {

namespace {

/// Rows of the image that any of the corners needs: [first, last).
std::pair<Index, Index> rows_needed(std::span<const Corner> corners, const ImageView& image,
                                    const ExtractOptions& options) noexcept {
    Index first = image.height;
    Index last = 0;
    for (const Corner corner : corners) {
        if (may_be_cut(corner.y, corner.x, options.box, image.height, image.width, options.pad)) {
            first = std::min(first, nearest_inside(static_cast<Index>(corner.y), image.height));
            last = std::max(last, nearest_inside(static_cast<Index>(corner.y) + options.box - 1, image.height) + 1);
        }
    }
    return {first, last};
}

/// Bytes of every buffer that a call needs, and its transforms.
struct Needs {
    struct Transform {
        TransformKind kind;
        Index length;
        Index batch;
    };
    std::size_t windows;
    std::size_t partial;
    std::size_t results;
    std::size_t stacks = 0;
    std::size_t spectra = 0;
    std::size_t columns = 0;
    std::size_t cropped = 0;
    std::vector<Transform> transforms;

    /// For spans of so many particles.
    Needs(const CallPlan& plan, Index span, bool stacks_here) {
        const Index box = plan.options.box;
        const auto group = as_size(plan.group);
        const auto side = as_size(box);
        windows = group * side * side * sizeof(float);
        partial = group * as_size(slices_of(box)) * sizeof(double);
        results = Results::bytes(span, plan.outputs.size());
        stacks = stacks_here ? as_size(span) * plan.stack_bytes_per_particle() : 0;
        if (plan.columns == 0) {
            return;
        }
        const auto crop = as_size(plan.largest_crop);
        spectra = group * side * (side / 2 + 1) * sizeof(Coefficient);
        columns = group * as_size(plan.columns) * side * sizeof(Coefficient);
        cropped = group * crop * crop * sizeof(float);
        transforms = {{.kind = TransformKind::rows, .length = box, .batch = plan.group * box},
                      {.kind = TransformKind::columns, .length = box, .batch = plan.group * plan.columns}};
        for (const StackView& output : plan.outputs) {
            if (output.size < box) {
                transforms.push_back({.kind = TransformKind::images, .length = output.size, .batch = plan.group});
            }
        }
    }

    /// Whether nothing would have to be allocated.
    [[nodiscard]] bool are_met_by(const Workspace& workspace) const {
        return windows <= workspace.windows.bytes() && partial <= workspace.partial.bytes() &&
               results <= workspace.results.bytes() && results <= workspace.staged_results.bytes() &&
               stacks <= workspace.stacks.bytes() && spectra <= workspace.spectra.bytes() &&
               columns <= workspace.columns.bytes() && cropped <= workspace.cropped.bytes() &&
               std::ranges::all_of(transforms, [&](const Transform& one) {
                   return workspace.has_transform(one.kind, one.length, one.batch);
               });
    }
};

void make_room(Workspace& workspace, const CallPlan& plan, bool stacks_here) {
    const Needs needs(plan, plan.span, stacks_here);
    const Needs wanted(plan, plan.room, stacks_here);
    if (workspace.windows.reserve(needs.windows)) {
        // Transforms take whole groups; the places of particles that are not there must hold something.
        workspace.queue->fill_zero(workspace.windows.as<void>(), needs.windows);
    }
    workspace.partial.reserve(needs.partial);
    workspace.results.reserve(needs.results, wanted.results);
    workspace.staged_results.reserve(needs.results, wanted.results);
    workspace.stacks.reserve(needs.stacks, wanted.stacks);
    workspace.spectra.reserve(needs.spectra);
    workspace.columns.reserve(needs.columns);
    workspace.cropped.reserve(needs.cropped);
    std::size_t work = 0;
    for (const Needs::Transform& one : needs.transforms) {
        work = std::max(work, workspace.transform(one.kind, one.length, one.batch).work_bytes());
    }
    workspace.work.reserve(work);
}

/// Buffers and transforms for the call; where they do not fit, for batches half as large, and so on.
void make_room_for(Workspace& workspace, CallPlan& plan, int device, Index count, bool stacks_here) {
    bool released = false;
    while (true) {
        try {
            make_room(workspace, plan, stacks_here);
            return;
        } catch (const OutOfMemory& error) {
            workspace.release_batches();
            plan.room = plan.span;
            if (!released) { // first what nobody uses
                WorkspacePool::instance().release(device);
                released = true;
                continue;
            }
            if (plan.group == 1) {
                const std::size_t needed = plan.bytes_per_particle() + plan.stack_bytes_per_particle();
                throw std::runtime_error(
                    "out of memory: one window of " + std::to_string(plan.options.box) + " pixels needs about " +
                    in_megabytes(needed) + ", " + in_megabytes(workspace.queue->free_bytes()) +
                    " are free (fewer workers on this device leave more for each): " + error.what());
            }
            plan.halve(count);
        }
    }
}

/// Memory for the micrograph, `bytes` of it; where it must grow, for the whole one if that can be had.
void reserve_image(Workspace& workspace, int device, std::size_t bytes, std::size_t whole) {
    try {
        workspace.image.reserve(bytes, whole);
    } catch (const OutOfMemory&) {
        workspace.release_batches();
        WorkspacePool::instance().release(device);
        try {
            workspace.image.reserve(bytes);
        } catch (const OutOfMemory& error) {
            throw std::runtime_error("out of memory: the micrograph needs " + in_megabytes(bytes) + ", " +
                                     in_megabytes(workspace.queue->free_bytes()) + " are free: " + error.what());
        }
    }
}

/// Arrays of the caller's that are said to lie on the device must: passes would not fail alone, but end every use of
/// the device in this process.
void check_places(Workspace& workspace, const ImageView& image, std::span<const StackView> outputs, const Use& use) {
    const auto require_here = [&](const void* memory, const char* what) {
        if (!workspace.queue->can_use(memory)) {
            throw std::invalid_argument(std::string(what) + " does not lie on cuda:" + std::to_string(use.device));
        }
    };
    if (use.image == Place::device && image.height * image.width > 0) {
        require_here(image.data, "the image");
    }
    if (use.outputs == Place::device) {
        for (const StackView& output : outputs) {
            require_here(data_of(output), "an output");
        }
    }
}

void wait_for_others(Queue& queue, const Use& use) {
    for (const std::uintptr_t stream : use.streams) {
        queue.wait_for(stream);
    }
}

/// The call where no box may be cut: nothing is planned, everything is zeros.
void reject_all(const ImageView& image, std::span<const StackView> outputs, Index count, const Use& use) {
    if (count == 0) {
        return;
    }
    if (use.outputs == Place::host) {
        for (const StackView& output : outputs) {
            std::memset(data_of(output), 0, as_size(count * bytes_of_image(output)));
        }
        return;
    }
    Lease workspace(use.device);
    check_places(*workspace, image, outputs, use);
    wait_for_others(*workspace->queue, use);
    for (const StackView& output : outputs) {
        workspace->queue->fill_zero(data_of(output), as_size(count * bytes_of_image(output)));
    }
    workspace->queue->synchronize();
    workspace.give_back();
}

} // namespace

void extract(const ImageView& image, std::span<const Corner> corners, std::span<const StackView> outputs,
             const ExtractOptions& options, const Use& use, std::span<Status> status, std::span<double> statistics) {
    check_image(image);
    check_arguments(corners, outputs, options, status, statistics);
    require(options.threads >= 1, "threads must be at least 1");
    require(options.axes.empty() && options.neighbors.empty() && !replaces_dust(options.steps) &&
                !options.steps.measures,
            "tubes, neighbors, dust and measures are the CPU's");
    require(!options.spectral.any(), "shifts by fractions of a pixel, filters and CTFs are the CPU's");
    for (std::size_t k = 0; options.steps.normalize && k < outputs.size(); ++k) {
        check_radius(outputs[k].size, options.radii[k]); // even where no corner is inside
    }
    const auto count = static_cast<Index>(corners.size());
    const auto [first_row, last_row] = rows_needed(corners, image, options);
    if (last_row == 0) {
        reject_all(image, outputs, count, use);
        std::ranges::fill(status, Status::outside);
        std::ranges::fill(statistics, 0.0);
        return;
    }

    Lease workspace(use.device);
    Queue& queue = *workspace->queue;
    check_places(*workspace, image, outputs, use);
    if (use.stages != nullptr) {
        queue.mark(0);
    }
    wait_for_others(queue, use);
    DeviceImage on_device{.pixels = image, .first_row = 0};
    std::size_t image_bytes = 0;
    if (use.image == Place::host) {
        const Index row_bytes = image.width * bytes_per_pixel(image.type);
        image_bytes = as_size((last_row - first_row) * row_bytes);
        const std::size_t whole = as_size(image.height * row_bytes);
        reserve_image(*workspace, use.device, image_bytes, use.memory == 0 ? with_reserve(image_bytes, whole) : 0);
        auto* pixels = workspace->image.as<std::byte>();
        upload_rows(*workspace, image, first_row, last_row, pixels);
        on_device.first_row = first_row;
        on_device.pixels.data = pixels;
        on_device.pixels.row_stride = row_bytes;
    }
    const bool stacks_here = use.outputs == Place::host;
    CallPlan plan(options, outputs);
    plan.fit_into(std::numeric_limits<std::size_t>::max(), count);
    // What is free is asked only where something must be allocated: some drivers take milliseconds to say it.
    if (use.memory != 0 || !Needs(plan, plan.span, stacks_here).are_met_by(*workspace)) {
        const std::size_t budget =
            use.memory != 0 ? use.memory : (queue.free_bytes() + workspace->device_bytes()) / 2 + image_bytes;
        plan.fit_into(budget > image_bytes ? budget - image_bytes : 0, count);
        if (use.memory != 0) { // as little as goes
            plan.room = plan.span;
        }
        make_room_for(*workspace, plan, use.device, count, stacks_here);
    }
    Call call(*workspace, plan, on_device, use);
    for (Index begin = 0; begin < count; begin += plan.span) {
        call.extract(corners, begin, std::min(plan.span, count - begin), status, statistics);
    }
    workspace.give_back();
}

} // namespace cryobox::cuda
