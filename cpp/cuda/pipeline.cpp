// What is asked of a device, in which order and in how many pieces: batches, buffers, transforms. No CUDA here.
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cryobox/arguments.hpp"
#include "cryobox/cuda.hpp"
#include "cryobox/normalize.hpp"
#include "device.hpp"

namespace cryobox::cuda {

namespace {

/// Particles that go through the passes together. One number for all calls, so that the transforms, and with them the
/// last bits of the images, do not depend on how many picks a micrograph has. A power of two: it may be halved.
constexpr Index group_size = 64;
/// Of pinned memory for finished images, before they are copied to where the caller wants them.
constexpr std::size_t largest_span_bytes = std::size_t{256} << 20U;
constexpr std::size_t upload_chunk_bytes = std::size_t{8} << 20U;

std::size_t as_size(Index value) noexcept { return static_cast<std::size_t>(value); }

std::string in_megabytes(std::size_t bytes) { return std::to_string((bytes + (1U << 20U) - 1) >> 20U) + " MB"; }

/// Memory that a workspace keeps from call to call and that only grows.
class KeptMemory {
public:
    KeptMemory(Queue& queue, Where where) : queue_(queue), where_(where) {}
    KeptMemory(const KeptMemory&) = delete;
    KeptMemory& operator=(const KeptMemory&) = delete;
    KeptMemory(KeptMemory&&) = delete;
    KeptMemory& operator=(KeptMemory&&) = delete;
    ~KeptMemory() { release(); }

    /// Room for `bytes`; what was there is lost where it grows. Whether it grew.
    bool reserve(std::size_t bytes) {
        if (bytes <= bytes_) {
            return false;
        }
        release(); // first, so that the old and the new never exist together
        memory_ = queue_.allocate(where_, bytes);
        bytes_ = bytes;
        return true;
    }
    void release() noexcept {
        if (memory_ != nullptr) {
            queue_.release(where_, memory_);
        }
        memory_ = nullptr;
        bytes_ = 0;
    }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    template <class T>
    [[nodiscard]] T* as() const noexcept {
        return static_cast<T*>(memory_);
    }

private:
    Queue& queue_;
    Where where_;
    void* memory_ = nullptr;
    std::size_t bytes_ = 0;
};

/// One caller's queue, buffers and transforms on a device. It is used, and ends, `OnDevice`.
struct Workspace {
    explicit Workspace(int device) : queue(make_queue(device)) {}
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    Workspace(Workspace&&) = delete;
    Workspace& operator=(Workspace&&) = delete;
    ~Workspace() {
        try { // copies may be under way from or to what is given back now, where a call has failed
            queue->synchronize();
        } catch (const std::exception&) { // NOLINT(bugprone-empty-catch): the call's own error says more
        }
    }

    std::unique_ptr<Queue> queue;
    KeptMemory image{*queue, Where::device};
    KeptMemory windows{*queue, Where::device}; // of a group
    KeptMemory spectra{*queue, Where::device}; // of its rows; later of an output
    KeptMemory columns{*queue, Where::device};
    KeptMemory cropped{*queue, Where::device}; // an output before it is finished
    KeptMemory partial{*queue, Where::device};
    KeptMemory work{*queue, Where::device};    // what transforms need
    KeptMemory results{*queue, Where::device}; // of a span: corners, status, means, statistics
    KeptMemory stacks{*queue, Where::device};  // of a span
    KeptMemory staged_image{*queue, Where::pinned};
    KeptMemory staged_results{*queue, Where::pinned};
    KeptMemory staged_stacks{*queue, Where::pinned};
    std::map<std::tuple<TransformKind, Index, Index>, std::unique_ptr<DeviceTransform>> transforms;
    std::map<std::pair<Index, double>, PlaneFit> fits;

    [[nodiscard]] std::size_t device_bytes() const noexcept {
        return image.bytes() + windows.bytes() + spectra.bytes() + columns.bytes() + cropped.bytes() + partial.bytes() +
               work.bytes() + results.bytes() + stacks.bytes();
    }
    /// Everything but the image, which may be in use.
    void release_batches() {
        queue->synchronize(); // something may still be cleared
        transforms.clear();
        for (KeptMemory* memory : {&windows, &spectra, &columns, &cropped, &partial, &work, &results, &stacks}) {
            memory->release();
        }
    }
    DeviceTransform& transform(TransformKind kind, Index length, Index batch) {
        auto& found = transforms[{kind, length, batch}];
        if (found == nullptr) {
            found = queue->plan(kind, length, batch);
        }
        return *found;
    }
    const PlaneFit& fit(Index size, double radius) {
        const auto found = fits.find({size, radius});
        return found != fits.end()
                   ? found->second
                   : fits.emplace(std::pair{size, radius}, Background(size, radius).fit()).first->second;
    }
};

/// Workspaces between calls, by device. Leaked on purpose: a thread may return one after every static is gone.
class WorkspacePool {
public:
    static WorkspacePool& instance() {
        static auto& pool = *new WorkspacePool;
        return pool;
    }
    std::unique_ptr<Workspace> take(int device) {
        {
            const std::scoped_lock lock(mutex_);
            auto& idle = idle_[device];
            if (!idle.empty()) {
                auto workspace = std::move(idle.back());
                idle.pop_back();
                return workspace;
            }
        }
        return std::make_unique<Workspace>(device);
    }
    void give_back(int device, std::unique_ptr<Workspace> workspace) {
        const std::scoped_lock lock(mutex_);
        idle_[device].push_back(std::move(workspace));
    }
    void release(int device) noexcept {
        std::vector<std::unique_ptr<Workspace>> idle;
        {
            const std::scoped_lock lock(mutex_);
            std::swap(idle, idle_[device]);
        }
        if (idle.empty()) {
            return;
        }
        try {
            const OnDevice chosen(device);
            idle.clear();
        } catch (const std::runtime_error&) { // NOLINT(bugprone-empty-catch): a failed device gives nothing back
        }
    }

private:
    std::mutex mutex_;
    std::map<int, std::vector<std::unique_ptr<Workspace>>> idle_;
};

/// One of the `most_callers` places of a device; waits until there is one.
class Turn {
public:
    explicit Turn(int device) : device_(device) {
        Turns& turns = all();
        std::unique_lock lock(turns.mutex);
        turns.one_ended.wait(lock, [&] { return turns.taken[device] < most_callers; });
        ++turns.taken[device];
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    Turn(Turn&&) = delete;
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
        Turns& turns = all();
        {
            const std::scoped_lock lock(turns.mutex);
            --turns.taken.find(device_)->second;
        }
        turns.one_ended.notify_all(); // those who wait may want different devices
    }

private:
    struct Turns {
        std::mutex mutex;
        std::condition_variable one_ended;
        std::map<int, int> taken;
    };
    static Turns& all() {
        static auto& turns = *new Turns; // leaked on purpose, as the workspaces are
        return turns;
    }

    int device_;
};

/// A workspace for the time of a call. One whose call failed is not used again.
class Lease {
public:
    explicit Lease(int device)
        : device_(device), turn_(device), workspace_(WorkspacePool::instance().take(device)), chosen_(device) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Lease(Lease&&) = delete;
    Lease& operator=(Lease&&) = delete;
    ~Lease() { workspace_.reset(); } // while its device is chosen
    /// The call has ended well.
    void give_back() { WorkspacePool::instance().give_back(device_, std::move(workspace_)); }
    [[nodiscard]] Workspace& operator*() const noexcept { return *workspace_; }
    [[nodiscard]] Workspace* operator->() const noexcept { return workspace_.get(); }

private:
    int device_;
    Turn turn_;
    std::unique_ptr<Workspace> workspace_;
    OnDevice chosen_;
};

/// Rows [first, last) of an image in host memory to a device, without gaps.
void upload_rows(Workspace& workspace, const ImageView& image, Index first, Index last, std::byte* to) {
    const std::size_t row_bytes = as_size(image.width * bytes_per_pixel(image.type));
    const auto rows = as_size(last - first);
    // The stride of a single row may be any number.
    const std::size_t stride = image.height > 1 ? static_cast<std::size_t>(image.row_stride) : row_bytes;
    const std::byte* from = image.data + first * image.row_stride;
    if (rows == 0 || row_bytes == 0) {
        return;
    }
    if (workspace.queue->is_pinned(from) && workspace.queue->is_pinned(from + (rows - 1) * stride + row_bytes - 1)) {
        workspace.queue->upload_rows(to, from, stride, row_bytes, rows);
        return;
    }
    // Each chunk has its own place, so that one is copied while the last one travels.
    workspace.staged_image.reserve(rows * row_bytes);
    auto* staged = workspace.staged_image.as<std::byte>();
    const std::size_t step = std::max<std::size_t>(1, upload_chunk_bytes / row_bytes);
    for (std::size_t row = 0; row < rows; row += step) {
        const std::size_t count = std::min(step, rows - row);
        std::byte* chunk = staged + row * row_bytes;
        if (stride == row_bytes) {
            std::memcpy(chunk, from + row * stride, count * row_bytes);
        } else {
            for (std::size_t i = 0; i < count; ++i) {
                std::memcpy(chunk + i * row_bytes, from + (row + i) * stride, row_bytes);
            }
        }
        workspace.queue->upload(to + row * row_bytes, chunk, count * row_bytes);
    }
}

std::byte* data_of(const StackView& stack) noexcept {
    return stack.float32 != nullptr ? reinterpret_cast<std::byte*>(stack.float32)
                                    : reinterpret_cast<std::byte*>(stack.float16);
}

Index bytes_of_image(const StackView& stack) noexcept {
    return stack.size * stack.size * static_cast<Index>(stack.float32 != nullptr ? sizeof(float) : sizeof(Half));
}

/// The same images at another address.
StackView stack_at(const StackView& like, std::byte* data) noexcept {
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
                workspace_.staged_stacks.reserve(as_size(plan_.span) * plan_.stack_bytes_per_particle());
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

void make_room(Workspace& workspace, CallPlan& plan, bool stacks_here) {
    const Index box = plan.options.box;
    const auto group = as_size(plan.group);
    const auto side = as_size(box);
    const std::size_t window_bytes = group * side * side * sizeof(float);
    if (workspace.windows.reserve(window_bytes)) {
        // Transforms take whole groups; the places of particles that are not there must hold something.
        workspace.queue->fill_zero(workspace.windows.as<void>(), window_bytes);
    }
    workspace.partial.reserve(group * as_size(slices_of(box)) * sizeof(double));
    workspace.results.reserve(Results::bytes(plan.span, plan.outputs.size()));
    workspace.staged_results.reserve(Results::bytes(plan.span, plan.outputs.size()));
    if (stacks_here) {
        workspace.stacks.reserve(as_size(plan.span) * plan.stack_bytes_per_particle());
    }
    if (plan.columns == 0) {
        return;
    }
    const auto crop = as_size(plan.largest_crop);
    workspace.spectra.reserve(group * side * (side / 2 + 1) * sizeof(Coefficient));
    workspace.columns.reserve(group * as_size(plan.columns) * side * sizeof(Coefficient));
    workspace.cropped.reserve(group * crop * crop * sizeof(float));
    std::size_t work = 0;
    const auto count_in = [&](const DeviceTransform& transform) { work = std::max(work, transform.work_bytes()); };
    count_in(workspace.transform(TransformKind::rows, box, plan.group * box));
    count_in(workspace.transform(TransformKind::columns, box, plan.group * plan.columns));
    for (const StackView& output : plan.outputs) {
        if (output.size < box) {
            count_in(workspace.transform(TransformKind::images, output.size, plan.group));
        }
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

void reserve_image(Workspace& workspace, int device, std::size_t bytes) {
    try {
        workspace.image.reserve(bytes);
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
        reserve_image(*workspace, use.device, image_bytes);
        auto* pixels = workspace->image.as<std::byte>();
        upload_rows(*workspace, image, first_row, last_row, pixels);
        on_device.first_row = first_row;
        on_device.pixels.data = pixels;
        on_device.pixels.row_stride = row_bytes;
    }
    CallPlan plan(options, outputs);
    const std::size_t budget =
        use.memory != 0 ? use.memory : (queue.free_bytes() + workspace->device_bytes()) / 2 + image_bytes;
    plan.fit_into(budget > image_bytes ? budget - image_bytes : 0, count);
    make_room_for(*workspace, plan, use.device, count, use.outputs == Place::host);
    Call call(*workspace, plan, on_device, use);
    for (Index begin = 0; begin < count; begin += plan.span) {
        call.extract(corners, begin, std::min(plan.span, count - begin), status, statistics);
    }
    workspace.give_back();
}

namespace {

/// One queue per device for memory that outlives calls. Leaked on purpose, as the workspaces are.
std::shared_ptr<Queue> lasting_queue(int device) {
    static auto& mutex = *new std::mutex;
    static auto& queues = *new std::map<int, std::shared_ptr<Queue>>;
    const std::scoped_lock lock(mutex);
    auto& queue = queues[device];
    if (queue == nullptr) {
        queue = make_queue(device);
    }
    return queue;
}

class QueueMemory final : public Memory {
public:
    QueueMemory(int device, Where where, std::size_t bytes)
        : device_(device), queue_(lasting_queue(device)), where_(where) {
        const OnDevice chosen(device);
        data_ = static_cast<std::byte*>(queue_->allocate(where, std::max<std::size_t>(bytes, 1)));
    }
    QueueMemory(const QueueMemory&) = delete;
    QueueMemory& operator=(const QueueMemory&) = delete;
    QueueMemory(QueueMemory&&) = delete;
    QueueMemory& operator=(QueueMemory&&) = delete;
    ~QueueMemory() override {
        try {
            const OnDevice chosen(device_); // freeing from a thread that has no device yet would choose the first
            queue_->release(where_, data_);
        } catch (const std::runtime_error&) { // NOLINT(bugprone-empty-catch): a failed device gives nothing back
        }
    }
    [[nodiscard]] std::byte* data() const noexcept override { return data_; }

private:
    int device_;
    std::shared_ptr<Queue> queue_;
    Where where_;
    std::byte* data_ = nullptr;
};

} // namespace

std::shared_ptr<Memory> Memory::on_device(int device, std::size_t bytes) {
    try {
        return std::make_shared<QueueMemory>(device, Where::device, bytes);
    } catch (const OutOfMemory&) {
        release_idle(device);
        return std::make_shared<QueueMemory>(device, Where::device, bytes);
    }
}

std::shared_ptr<Memory> Memory::pinned(int device, std::size_t bytes) {
    return std::make_shared<QueueMemory>(device, Where::pinned, bytes);
}

void upload(int device, const ImageView& image, Index first_row, Index last_row, std::byte* to) {
    Lease workspace(device);
    upload_rows(*workspace, image, first_row, last_row, to + first_row * image.width * bytes_per_pixel(image.type));
    workspace->queue->synchronize();
    workspace.give_back();
}

void download(int device, std::byte* to, const std::byte* from, std::size_t bytes) {
    if (bytes == 0) {
        return;
    }
    Lease workspace(device);
    workspace->queue->download(to, from, bytes);
    workspace->queue->synchronize();
    workspace.give_back();
}

void compact(int device, std::byte* to, const std::byte* from, std::size_t bytes_each,
             std::span<const std::uint8_t> wanted) {
    Lease workspace(device);
    for (std::size_t i = 0; i < wanted.size();) {
        std::size_t end = i;
        while (end < wanted.size() && wanted[end] != 0) {
            ++end;
        }
        if (end > i) { // a run of wanted ones is one copy
            workspace->queue->copy(to, from + i * bytes_each, (end - i) * bytes_each);
            to += (end - i) * bytes_each;
        }
        i = end + 1;
    }
    workspace->queue->synchronize();
    workspace.give_back();
}

void release_idle(int device) noexcept { WorkspacePool::instance().release(device); }

} // namespace cryobox::cuda
