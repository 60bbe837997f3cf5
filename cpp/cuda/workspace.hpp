// One caller's queue, buffers and transforms on a device, and where they wait between calls. No CUDA here.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cryobox/cuda.hpp"
#include "cryobox/normalize.hpp"
#include "device.hpp"

namespace cryobox::cuda {

inline std::size_t as_size(Index value) noexcept { return static_cast<std::size_t>(value); }

inline std::string in_megabytes(std::size_t bytes) { return std::to_string((bytes + (1U << 20U) - 1) >> 20U) + " MB"; }

/// What is made of a buffer for `bytes` of something of which a later call may need more, at most `most`: twice of it.
inline std::size_t with_reserve(std::size_t bytes, std::size_t most) noexcept { return std::min(2 * bytes, most); }

/// Memory that a workspace keeps from call to call and that only grows.
class KeptMemory {
public:
    KeptMemory(Queue& queue, Where where) : queue_(queue), where_(where) {}
    KeptMemory(const KeptMemory&) = delete;
    KeptMemory& operator=(const KeptMemory&) = delete;
    KeptMemory(KeptMemory&&) = delete;
    KeptMemory& operator=(KeptMemory&&) = delete;
    ~KeptMemory() { release(); }

    /// Room for `bytes`; where it must grow, which costs every caller of the device a wait, to `wanted` if that is
    /// more. What was there is lost then. Whether it grew.
    bool reserve(std::size_t bytes, std::size_t wanted = 0) {
        if (bytes <= bytes_) {
            return false;
        }
        release(); // first, so that the old and the new never exist together
        const std::size_t chosen = std::max(bytes, wanted);
        memory_ = queue_.allocate(where_, chosen);
        bytes_ = chosen;
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
    [[nodiscard]] bool has_transform(TransformKind kind, Index length, Index batch) const {
        return transforms.contains({kind, length, batch});
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

inline constexpr std::size_t upload_chunk_bytes = std::size_t{8} << 20U;

/// Rows [first, last) of an image in host memory to a device, without gaps.
inline void upload_rows(Workspace& workspace, const ImageView& image, Index first, Index last, std::byte* to) {
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
    try {
        workspace.staged_image.reserve(rows * row_bytes,
                                       with_reserve(rows * row_bytes, as_size(image.height) * row_bytes));
    } catch (const OutOfMemory&) {
        workspace.staged_image.reserve(rows * row_bytes);
    }
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

} // namespace cryobox::cuda
