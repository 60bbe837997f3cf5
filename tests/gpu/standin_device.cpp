// A processor behind the seam of cpp/cuda/device.hpp, for tests: the very passes, thread after thread, FFTW in the
// place of cuFFT. It is stricter than a GPU: nothing happens before `synchronize`, new memory holds NaN, and transforms
// back refuse half spectra that no real image has. What it does is set through the functions at the end.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cryobox/buffer.hpp"
#include "cryobox/fft.hpp"
#include "device.hpp"

namespace cryobox::cuda {

namespace {

struct Settings {
    std::atomic<int> devices = 1;
    std::atomic<std::size_t> memory = std::size_t{1} << 40U;
    std::atomic<std::size_t> largest_pinned = std::size_t{1} << 40U; ///< bytes of one piece of pinned memory
    std::atomic<int> synchronizations_left = -1;                     ///< then the device fails; -1: never
    std::atomic<int> failing_device = -1;                            ///< -1: each
    std::atomic<int> order = 0;        ///< of the threads of a block: 0 upward, 1 downward, 2 mixed
    std::atomic<std::size_t> used = 0; ///< bytes of device memory
    std::atomic<std::size_t> most_used = 0;
    std::atomic<std::size_t> uploaded = 0;
    std::atomic<int> synchronizations = 0;
    std::atomic<int> allocations = 0;
    std::atomic<int> looks = 0; ///< at devices, closely
    std::atomic<int> waits = 0; ///< for streams of other libraries
};

Settings& settings() {
    static auto& one = *new Settings;
    return one;
}

/// All memory that was handed out, so that its addresses are known again.
struct Blocks {
    struct Block {
        std::size_t bytes;
        int device; ///< -1: pinned
    };
    std::mutex mutex;
    std::map<const std::byte*, Block> blocks;

    /// What holds this address, or null. Call it with the mutex.
    [[nodiscard]] const Block* find(const void* memory) const {
        const auto* at = static_cast<const std::byte*>(memory);
        auto found = blocks.upper_bound(at);
        if (found == blocks.begin()) {
            return nullptr;
        }
        --found;
        return at < found->first + found->second.bytes ? &found->second : nullptr;
    }
};

Blocks& handed_out() {
    static auto& one = *new Blocks;
    return one;
}

thread_local int current_device = -1;

/// The threads of a block, one after the other.
struct ThreadsInTurn {
    int count;
    int order;

    template <class Work>
    void each(const Work& work) const {
        for (int i = 0; i < count; ++i) {
            const int downward = count - 1 - i;
            const int mixed = (i * 37 + 11) % count; // 37 is prime to every power of two
            if (order == 0) {
                work(i);
            } else {
                work(order == 1 ? downward : mixed);
            }
        }
    }
};

Complex* as_complex(Coefficient* pointer) { return reinterpret_cast<Complex*>(pointer); }

class StandInTransform final : public DeviceTransform {
public:
    StandInTransform(TransformKind kind, Index length, Index batch)
        : kind_(kind), length_(length), batch_(batch), from_(length), to_(length) {}
    // Something, so that work areas are asked for.
    [[nodiscard]] std::size_t work_bytes() const noexcept override {
        return static_cast<std::size_t>(length_ * batch_) * sizeof(Coefficient);
    }

    void execute(void* from, void* to, void* work) {
        std::memset(work, 0xFF, work_bytes());
        for (Index i = 0; i < batch_; ++i) {
            switch (kind_) {
            case TransformKind::rows:
                rows(static_cast<const float*>(from) + i * length_,
                     as_complex(static_cast<Coefficient*>(to)) + i * (length_ / 2 + 1));
                break;
            case TransformKind::columns:
                one(as_complex(static_cast<Coefficient*>(from)) + i * length_, 1,
                    as_complex(static_cast<Coefficient*>(to)) + i * length_, 1, Direction::forward);
                break;
            case TransformKind::images:
                image(as_complex(static_cast<Coefficient*>(from)) + i * length_ * (length_ / 2 + 1),
                      static_cast<float*>(to) + i * length_ * length_);
                break;
            }
        }
    }

private:
    void one(const Complex* from, Index from_stride, Complex* to, Index to_stride, Direction direction) {
        for (Index x = 0; x < length_; ++x) {
            from_.data()[x] = from[x * from_stride];
        }
        cryobox::transform(length_, direction)(from_.data(), to_.data());
        for (Index x = 0; x < length_; ++x) {
            to[x * to_stride] = to_.data()[x];
        }
    }
    void rows(const float* from, Complex* to) {
        for (Index x = 0; x < length_; ++x) {
            from_.data()[x] = from[x];
        }
        cryobox::transform(length_, Direction::forward)(from_.data(), to_.data());
        std::copy_n(to_.data(), length_ / 2 + 1, to);
    }
    void image(Complex* from, float* to) {
        const Index kept = length_ / 2 + 1;
        float largest = 0;
        for (Index i = 0; i < length_ * kept; ++i) {
            largest = std::max(largest, std::abs(from[i]));
        }
        for (const Index k : {Index{0}, length_ / 2}) {
            for (Index y = 0; y < length_; ++y) {
                const Complex mirror = std::conj(from[(length_ - y) % length_ * kept + k]);
                if (std::abs(from[y * kept + k] - mirror) > 1e-6F * largest) { // false where one is not finite
                    throw std::runtime_error("a half spectrum that no real image has");
                }
            }
        }
        for (Index k = 0; k < kept; ++k) {
            one(from + k, kept, from + k, kept, Direction::backward);
        }
        for (Index y = 0; y < length_; ++y) {
            for (Index k = 0; k < length_; ++k) {
                from_.data()[k] = k < kept ? from[y * kept + k] : std::conj(from[y * kept + length_ - k]);
            }
            cryobox::transform(length_, Direction::backward)(from_.data(), to_.data());
            for (Index x = 0; x < length_; ++x) {
                to[y * length_ + x] = to_.data()[x].real();
            }
        }
        std::memset(static_cast<void*>(from), 0xFF, static_cast<std::size_t>(length_ * kept) * sizeof(Complex));
    }

    TransformKind kind_;
    Index length_;
    Index batch_;
    Buffer<Complex> from_;
    Buffer<Complex> to_;
};

class StandInQueue final : public Queue {
public:
    explicit StandInQueue(int device) : device_(device) {}

    void* allocate(Where where, std::size_t bytes) override {
        require_chosen();
        auto& set = settings();
        ++set.allocations;
        if (where == Where::device) {
            if (set.used + bytes > set.memory) {
                throw OutOfMemory("allocating device memory: out of memory");
            }
            set.used += bytes;
            set.most_used = std::max<std::size_t>(set.most_used, set.used);
        }
        if (where == Where::pinned && bytes > set.largest_pinned) {
            throw OutOfMemory("allocating pinned memory: out of memory");
        }
        auto* memory = static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
        std::memset(memory, 0xFF, bytes); // NaN as floats
        const std::scoped_lock lock(handed_out().mutex);
        handed_out().blocks[memory] = {.bytes = bytes, .device = where == Where::device ? device_ : -1};
        return memory;
    }
    void release(Where where, void* memory) noexcept override {
        if (current_device != device_) {
            std::abort(); // a GPU would be woken for nothing
        }
        {
            const std::scoped_lock lock(handed_out().mutex);
            const auto found = handed_out().blocks.find(static_cast<std::byte*>(memory));
            if (where == Where::device) {
                settings().used -= found->second.bytes;
            }
            handed_out().blocks.erase(found);
        }
        std::free(memory); // NOLINT: of aligned_alloc
    }
    std::size_t free_bytes() override { return settings().memory - settings().used; }
    bool is_pinned(const void* memory) override {
        const std::scoped_lock lock(handed_out().mutex);
        const auto* block = handed_out().find(memory);
        return block != nullptr && block->device == -1;
    }
    bool can_use(const void* memory) override { // memory of the host passes for that of other libraries' devices
        const std::scoped_lock lock(handed_out().mutex);
        const auto* block = handed_out().find(memory);
        return block == nullptr || block->device == -1 || block->device == device_;
    }

    void fill_zero(void* memory, std::size_t bytes) override {
        require_inside(memory, bytes);
        later([=] { std::memset(memory, 0, bytes); });
    }
    void upload(void* to, const void* from, std::size_t bytes) override {
        settings().uploaded += bytes;
        require_inside(to, bytes);
        require_inside(from, bytes);
        later([=] { std::memcpy(to, from, bytes); });
    }
    void upload_rows(void* to, const void* from, std::size_t from_stride, std::size_t bytes,
                     std::size_t rows) override {
        if (from_stride < bytes) {
            throw std::logic_error("rows that overlap: no device copies those");
        }
        settings().uploaded += bytes * rows;
        later([=] {
            for (std::size_t y = 0; y < rows; ++y) {
                std::memcpy(static_cast<std::byte*>(to) + y * bytes,
                            static_cast<const std::byte*>(from) + y * from_stride, bytes);
            }
        });
    }
    void download(void* to, const void* from, std::size_t bytes) override {
        require_inside(to, bytes);
        require_inside(from, bytes);
        later([=] { std::memcpy(to, from, bytes); });
    }
    void copy(void* to, const void* from, std::size_t bytes) override {
        later([=] { std::memcpy(to, from, bytes); });
    }

    std::unique_ptr<DeviceTransform> plan(TransformKind kind, Index length, Index batch) override {
        require_chosen();
        return std::make_unique<StandInTransform>(kind, length, batch);
    }
    void transform(DeviceTransform& plan, void* from, void* to, void* work) override {
        later([&plan, from, to, work] { static_cast<StandInTransform&>(plan).execute(from, to, work); });
    }

    void run(const WindowSums& pass, Block blocks) override { launch(pass, blocks); }
    void run(const Gather& pass, Block blocks) override { launch(pass, blocks); }
    void run(const ToColumns& pass, Block blocks) override { launch(pass, blocks); }
    void run(const Crop& pass, Block blocks) override { launch(pass, blocks); }
    void run(const FinishImages& pass, Block blocks) override { launch(pass, blocks); }
    void run(const Clear& pass, Block blocks) override { launch(pass, blocks); }

    void wait_for(std::uintptr_t) override { ++settings().waits; }
    void mark(std::size_t) override {}
    double milliseconds(std::size_t, std::size_t) override { return 1; }
    void synchronize() override {
        auto& set = settings();
        ++set.synchronizations;
        const std::vector<std::function<void()>> work = std::move(work_);
        work_.clear();
        const bool may_fail = set.failing_device == -1 || set.failing_device == device_;
        if (may_fail && set.synchronizations_left > 0) {
            --set.synchronizations_left;
        } else if (may_fail && set.synchronizations_left == 0) { // and it goes on failing
            throw std::runtime_error("working on the device: an illegal memory access was encountered");
        }
        for (const auto& step : work) {
            step();
        }
    }

private:
    void require_chosen() const {
        if (current_device != device_) {
            throw std::logic_error("work for a device that the thread does not speak to");
        }
    }
    /// What begins in memory that was handed out must end there.
    static void require_inside(const void* memory, std::size_t bytes) {
        const std::scoped_lock lock(handed_out().mutex);
        const auto* block = handed_out().find(memory);
        const auto* at = static_cast<const std::byte*>(memory);
        if (block != nullptr && bytes > 0 && handed_out().find(at + bytes - 1) != block) {
            throw std::logic_error("a copy beyond the memory that it is for");
        }
    }
    void later(std::function<void()> step) {
        require_chosen();
        work_.push_back(std::move(step));
    }

    template <class Pass>
    void launch(const Pass& pass, Block blocks) {
        later([pass, blocks] {
            const ThreadsInTurn threads{.count = Pass::threads, .order = settings().order};
            const auto shared = std::make_unique<typename Pass::Shared>();
            for (Index z = 0; z < blocks.z; ++z) {
                for (Index y = 0; y < blocks.y; ++y) {
                    for (Index x = 0; x < blocks.x; ++x) {
                        std::memset(static_cast<void*>(shared.get()), 0xFF, sizeof(*shared));
                        pass(threads, Block{.x = x, .y = y, .z = z}, *shared);
                    }
                }
            }
        });
    }

    int device_;
    std::vector<std::function<void()>> work_;
};

} // namespace

OnDevice::OnDevice(int device) : device_(device), before_(std::exchange(current_device, device)) {}
OnDevice::~OnDevice() { current_device = before_; }

std::unique_ptr<Queue> make_queue(int device) {
    if (settings().devices == 0) {
        throw std::runtime_error("no NVIDIA driver on this host");
    }
    if (device < 0 || device >= settings().devices) {
        throw std::runtime_error("there is no GPU " + std::to_string(device) + "; this host has " +
                                 std::to_string(settings().devices) + ", numbered from 0");
    }
    return std::make_unique<StandInQueue>(device);
}

Survey survey(std::span<const int> closely) {
    Survey found;
    found.runtime = "stand-in";
    found.problem = settings().devices == 0 ? "no NVIDIA driver on this host" : "";
    for (int i = 0; i < settings().devices; ++i) {
        const bool looked_at = closely.empty() || std::ranges::count(closely, i) > 0;
        settings().looks += looked_at ? 1 : 0;
        found.devices.push_back({.index = i,
                                 .name = "processor standing in for a GPU",
                                 .capability = "0.0",
                                 .bus = "none",
                                 .multiprocessors = 1,
                                 .total_bytes = settings().memory,
                                 .free_bytes = looked_at ? settings().memory - settings().used : 0,
                                 .problem = ""});
    }
    return found;
}

int dlpack_device_type() noexcept { return 1; } // its memory is the host's

} // namespace cryobox::cuda

#define CRYOBOX_STANDIN extern "C" __attribute__((visibility("default")))

CRYOBOX_STANDIN void standin_set(int devices, std::size_t memory, int order) {
    auto& set = cryobox::cuda::settings();
    set.devices = devices;
    set.memory = memory;
    set.order = order;
    set.synchronizations_left = -1;
    set.failing_device = -1;
    set.most_used = set.used.load();
    set.uploaded = 0;
    set.synchronizations = 0;
    set.allocations = 0;
    set.looks = 0;
    set.waits = 0;
    set.largest_pinned = std::size_t{1} << 40U;
}
/// No piece of pinned memory may be larger; until `standin_set`.
CRYOBOX_STANDIN void standin_limit_pinned(std::size_t bytes) { cryobox::cuda::settings().largest_pinned = bytes; }
/// `device` (-1: each) fails at the synchronization after so many more.
CRYOBOX_STANDIN void standin_fail_after(int synchronizations, int device) {
    cryobox::cuda::settings().synchronizations_left = synchronizations;
    cryobox::cuda::settings().failing_device = device;
}
CRYOBOX_STANDIN std::size_t standin_used() { return cryobox::cuda::settings().used; }
CRYOBOX_STANDIN std::size_t standin_most_used() { return cryobox::cuda::settings().most_used; }
CRYOBOX_STANDIN std::size_t standin_uploaded() { return cryobox::cuda::settings().uploaded; }
CRYOBOX_STANDIN int standin_synchronizations() { return cryobox::cuda::settings().synchronizations; }
CRYOBOX_STANDIN int standin_looks() { return cryobox::cuda::settings().looks; }
CRYOBOX_STANDIN int standin_waits() { return cryobox::cuda::settings().waits; }
/// Which device the calling thread speaks to; -1: none.
CRYOBOX_STANDIN int standin_current() { return cryobox::cuda::current_device; }
CRYOBOX_STANDIN int standin_allocations() { return cryobox::cuda::settings().allocations; }
