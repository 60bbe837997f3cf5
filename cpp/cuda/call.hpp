// A call on its way: how its particles are grouped, and the passes that each group goes through. No CUDA here.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "cryobox/cuda.hpp"
#include "cryobox/rules.hpp"
#include "passes.hpp"
#include "workspace.hpp"

namespace cryobox::cuda {

/// Particles that go through the passes together. One number for all calls, so that the transforms, and with them the
/// last bits of the images, do not depend on how many picks a micrograph has. A power of two: it may be halved.
inline constexpr Index group_size = 64;
/// Of pinned memory for finished images, before they are copied to where the caller wants them.
inline constexpr std::size_t largest_span_bytes = std::size_t{256} << 20U;

inline std::byte* data_of(const StackView& stack) noexcept {
    return stack.float32 != nullptr ? reinterpret_cast<std::byte*>(stack.float32)
                                    : reinterpret_cast<std::byte*>(stack.float16);
}

inline Index bytes_of_image(const StackView& stack) noexcept {
    return stack.size * stack.size * static_cast<Index>(stack.float32 != nullptr ? sizeof(float) : sizeof(Half));
}

/// The same images at another address.
inline StackView stack_at(const StackView& like, std::byte* data) noexcept {
    StackView view{.float32 = nullptr, .float16 = nullptr, .size = like.size};
    if (like.float32 != nullptr) {
        view.float32 = reinterpret_cast<float*>(data);
    } else {
        view.float16 = reinterpret_cast<Half*>(data);
    }
    return view;
}

/// What is decided about a call before its first particle.
struct CallPlan {
    const ExtractOptions& options;
    std::span<const StackView> outputs;
    Index columns = 0; ///< of the window's transform that any output keeps; 0: none is cropped
    Index largest_crop = 0;
    Index group = group_size;
    Index span = 0; ///< particles between two synchronizations; whole groups
    Index room = 0; ///< particles that a span's memory is made for where it must grow: the next call may have more

    CallPlan(const ExtractOptions& chosen, std::span<const StackView> stacks) : options(chosen), outputs(stacks) {
        for (const StackView& output : outputs) {
            if (output.size < options.box) {
                columns = std::max(columns, output.size / 2 + 1);
                largest_crop = std::max(largest_crop, output.size);
            }
        }
    }
    /// Bytes of a device that a group takes, particle by particle; transforms take about as much as they read.
    [[nodiscard]] std::size_t bytes_per_particle() const noexcept {
        const auto box = as_size(options.box);
        const auto crop = as_size(largest_crop);
        const std::size_t window = box * box * sizeof(float) + as_size(slices_of(options.box)) * sizeof(double);
        if (columns == 0) {
            return window;
        }
        const std::size_t spectrum = box * (box / 2 + 1) * sizeof(Coefficient);
        return window + 2 * spectrum + as_size(columns) * box * sizeof(Coefficient) + crop * crop * sizeof(float);
    }
    [[nodiscard]] std::size_t stack_bytes_per_particle() const noexcept {
        std::size_t total = 0;
        for (const StackView& output : outputs) {
            total += as_size(bytes_of_image(output));
        }
        return total;
    }
    /// Batches that fit into `budget` bytes, if one particle does.
    void fit_into(std::size_t budget, Index count) noexcept {
        while (group > 1 && as_size(group) * bytes_per_particle() > budget / 2) {
            group /= 2;
        }
        fit_span(std::min(budget / 2, largest_span_bytes), count);
    }
    void halve(Index count) noexcept {
        group /= 2;
        fit_span(as_size(span) * stack_bytes_per_particle() / 2, count);
    }

private:
    void fit_span(std::size_t bytes, Index count) noexcept {
        const auto fitting = static_cast<Index>(bytes / stack_bytes_per_particle());
        span = std::max<Index>(1, std::min(fitting, count) / group) * group;
        // The last group of a call need not be whole.
        span = std::min(span >= count - count % group ? count : span, std::max<Index>(count, 1));
        room = std::max(span, std::min(fitting, span + span / 2));
    }
};

/// Where the small results of a span lie, in device memory as in pinned memory.
struct Results {
    Corner* corners;
    double* means;
    double* statistics;
    Status* status;

    static std::size_t bytes(Index span, std::size_t outputs) noexcept {
        return as_size(span) * (sizeof(Corner) + sizeof(double) + outputs * statistics_count * sizeof(double) + 1);
    }
    /// Numbers first, so that all are aligned.
    Results(std::byte* memory, Index span, std::size_t outputs) noexcept
        : corners(reinterpret_cast<Corner*>(memory)),
          means(reinterpret_cast<double*>(memory + as_size(span) * sizeof(Corner))), statistics(means + span),
          status(reinterpret_cast<Status*>(statistics + span * static_cast<Index>(outputs * statistics_count))) {}
};

/// A call on its way.
class Call {
public:
    Call(Workspace& workspace, const CallPlan& plan, const DeviceImage& image, const Use& use)
        : workspace_(workspace), queue_(*workspace.queue), plan_(plan), image_(image), use_(use),
          device_(workspace.results.as<std::byte>(), plan.span, plan.outputs.size()),
          staged_(workspace.staged_results.as<std::byte>(), plan.span, plan.outputs.size()) {}

    /// Particles `begin` ... `begin + count - 1`, at most a span of them.
    void extract(std::span<const Corner> corners, Index begin, Index count, std::span<Status> status,
                 std::span<double> statistics) {
        stage_corners(corners, begin, count);
        std::vector<StackView> stacks = span_stacks(begin);
        for (Index first = 0; first < count; first += plan_.group) {
            cut_group(first, std::min(plan_.group, count - first), stacks);
        }
        for (std::size_t k = 0; k < stacks.size(); ++k) {
            queue_.run(Clear{.status = device_.status,
                             .stack = stacks[k],
                             .statistics = device_.statistics + static_cast<Index>(k) * plan_.span * statistics_count},
                       Block{.x = count, .y = 1, .z = 1});
        }
        mark(Stage::finish);
        std::vector<std::byte*> staged = download_stacks(stacks, begin, count);
        const Index rows = plan_.span * static_cast<Index>(plan_.outputs.size());
        queue_.download(staged_.statistics, device_.statistics, as_size(rows * statistics_count) * sizeof(double));
        queue_.download(staged_.status, device_.status, as_size(count));
        mark(Stage::download);
        queue_.synchronize();
        // Finished images to where the caller wants them.
        for (std::size_t k = 0; k < staged.size(); ++k) {
            const Index each = bytes_of_image(plan_.outputs[k]);
            if (staged[k] != nullptr) {
                std::memcpy(data_of(plan_.outputs[k]) + begin * each, staged[k], as_size(count * each));
            }
        }
        std::copy_n(staged_.status, count, status.begin() + begin);
        const auto total = static_cast<Index>(corners.size());
        for (std::size_t k = 0; k < plan_.outputs.size(); ++k) {
            std::copy_n(staged_.statistics + static_cast<Index>(k) * plan_.span * statistics_count,
                        count * statistics_count,
                        statistics.begin() + (static_cast<Index>(k) * total + begin) * statistics_count);
        }
        collect_stages();
    }

    enum class Stage : std::uint8_t { upload, gather, rows, columns, inverse, finish, download };

    /// The time since the last mark belongs to `stage`.
    void mark(Stage stage) {
        if (use_.stages != nullptr) {
            marked_.push_back(stage);
            queue_.mark(marked_.size());
        }
    }

private:
    void stage_corners(std::span<const Corner> corners, Index begin, Index count) {
        for (Index i = 0; i < count; ++i) {
            const Corner corner = corners[as_size(begin + i)];
            const ImageView& pixels = image_.pixels;
            const bool fits =
                may_be_cut(corner.y, corner.x, plan_.options.box, pixels.height, pixels.width, plan_.options.pad);
            staged_.corners[i] = corner;
            staged_.status[i] = fits ? Status::ok : Status::outside;
        }
        queue_.upload(device_.corners, staged_.corners, as_size(count) * sizeof(Corner));
        queue_.upload(device_.status, staged_.status, as_size(count));
        queue_.fill_zero(device_.statistics,
                         as_size(plan_.span) * plan_.outputs.size() * statistics_count * sizeof(double));
        mark(Stage::upload);
    }

    /// Where the device writes the images of this span.
    [[nodiscard]] std::vector<StackView> span_stacks(Index begin) const {
        std::vector<StackView> stacks;
        auto* memory = workspace_.stacks.as<std::byte>();
        for (const StackView& output : plan_.outputs) {
            const Index each = bytes_of_image(output);
            if (use_.outputs == Place::device) {
                stacks.push_back(stack_at(output, data_of(output) + begin * each));
            } else {
                stacks.push_back(stack_at(output, memory));
                memory += plan_.span * each;
            }
        }
        return stacks;
    }

    /// Starts the copies. Where the caller's memory is not pinned they go to ours: its address, else null.
    std::vector<std::byte*> download_stacks(const std::vector<StackView>& stacks, Index begin, Index count) {
        std::vector<std::byte*> staged(stacks.size(), nullptr);
        if (use_.outputs == Place::device) {
            return staged;
        }
        std::size_t at = 0;
        for (std::size_t k = 0; k < stacks.size(); ++k) {
            const Index each = bytes_of_image(stacks[k]);
            std::byte* wanted = data_of(plan_.outputs[k]) + begin * each;
            if (!queue_.is_pinned(wanted) || !queue_.is_pinned(wanted + count * each - 1)) {
                workspace_.staged_stacks.reserve(as_size(plan_.span) * plan_.stack_bytes_per_particle(),
                                                 as_size(plan_.room) * plan_.stack_bytes_per_particle());
                wanted = staged[k] = workspace_.staged_stacks.as<std::byte>() + at;
            }
            at += as_size(plan_.span * each);
            queue_.download(wanted, data_of(stacks[k]), as_size(count * each));
        }
        return staged;
    }

    void cut_group(Index first, Index count, const std::vector<StackView>& stacks) {
        const ExtractOptions& options = plan_.options;
        const Index box = options.box;
        const bool crops = plan_.columns > 0;
        const Block slices{.x = slices_of(box), .y = count, .z = 1};
        auto* windows = workspace_.windows.as<float>();
        auto* partial = workspace_.partial.as<double>();
        auto* spectra = workspace_.spectra.as<Coefficient>();
        auto* columns = workspace_.columns.as<Coefficient>();
        queue_.run(WindowSums{.image = image_,
                              .corners = device_.corners + first,
                              .status = device_.status + first,
                              .box = box,
                              .partial = partial},
                   slices);
        Gather gather{.image = image_,
                      .corners = device_.corners + first,
                      .partial = partial,
                      .box = box,
                      .subtract = crops || options.steps.normalize,
                      .status = device_.status + first,
                      .means = device_.means + first,
                      .windows = windows};
        queue_.run(gather, slices);
        mark(Stage::gather);
        if (crops) {
            transform(TransformKind::rows, box, plan_.group * box, windows, spectra);
            mark(Stage::rows);
            queue_.run(ToColumns{.rows = spectra, .box = box, .columns = plan_.columns, .to = columns},
                       Block{.x = tiles_of(box), .y = tiles_of(plan_.columns), .z = plan_.group});
            transform(TransformKind::columns, box, plan_.group * plan_.columns, columns, columns);
            mark(Stage::columns);
        }
        for (std::size_t k = 0; k < stacks.size(); ++k) {
            const Index size = stacks[k].size;
            const float* images = windows;
            if (size < box) {
                const double points = static_cast<double>(box) * static_cast<double>(box);
                queue_.run(Crop{.from = columns,
                                .box = box,
                                .columns = plan_.columns,
                                .size = size,
                                .scale = static_cast<float>(1 / points),
                                .to = spectra},
                           Block{.x = tiles_of(size), .y = tiles_of(size / 2 + 1), .z = plan_.group});
                auto* cropped = workspace_.cropped.as<float>();
                transform(TransformKind::images, size, plan_.group, spectra, cropped);
                images = cropped;
                mark(Stage::inverse);
            } else if (crops && !options.steps.normalize) {
                // Uncropped gray levels are the pixels themselves: nothing is subtracted and added again.
                gather.subtract = false;
                queue_.run(gather, slices);
            }
            queue_.run(
                FinishImages{.images = images,
                             .size = size,
                             .fit = options.steps.normalize ? workspace_.fit(size, options.radii[k]) : PlaneFit{},
                             .radius = options.steps.normalize ? options.radii[k] : 0,
                             .steps = options.steps,
                             .cropped = size < box,
                             .means = device_.means + first,
                             .status = device_.status + first,
                             .stack = stack_at(stacks[k], data_of(stacks[k]) + first * bytes_of_image(stacks[k])),
                             .statistics =
                                 device_.statistics + (static_cast<Index>(k) * plan_.span + first) * statistics_count},
                Block{.x = count, .y = 1, .z = 1});
            mark(Stage::finish);
        }
    }

    void transform(TransformKind kind, Index length, Index batch, void* from, void* to) {
        queue_.transform(workspace_.transform(kind, length, batch), from, to, workspace_.work.as<void>());
    }

    void collect_stages() {
        if (use_.stages == nullptr) {
            return;
        }
        double* const times[] = {&use_.stages->upload,  &use_.stages->gather,  &use_.stages->rows,
                                 &use_.stages->columns, &use_.stages->inverse, &use_.stages->finish,
                                 &use_.stages->download};
        for (; collected_ < marked_.size(); ++collected_) {
            *times[static_cast<std::size_t>(marked_[collected_])] += queue_.milliseconds(collected_, collected_ + 1);
        }
    }

    Workspace& workspace_;
    Queue& queue_;
    const CallPlan& plan_;
    const DeviceImage& image_;
    const Use& use_;
    Results device_;
    Results staged_;
    std::vector<Stage> marked_;
    std::size_t collected_ = 0;
};

} // namespace cryobox::cuda
