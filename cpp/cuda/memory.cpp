// Memory on devices that outlives calls, and copies from and to it. No CUDA here.
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "cryobox/cuda.hpp"
#include "workspace.hpp"

namespace cryobox::cuda {

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
