// A GPU behind the seam of device.hpp: streams, memory, launches of the passes, cuFFT. The only file that CUDA
// compiles.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <sys/mman.h>

#include <cuda.h> // of the driver only a type: nothing of it is linked

#include "check.cuh"
#include "device.hpp"

namespace cryobox::cuda {

namespace {

/// The threads of one block. `each` ends at a barrier.
struct ThreadBlock {
    template <class Work>
    CRYOBOX_DEVICE void each(const Work& work) const {
        work(static_cast<int>(threadIdx.x));
        __syncthreads();
    }
};

template <class Pass>
__global__ void __launch_bounds__(Pass::threads) run_pass(const __grid_constant__ Pass pass) {
    __shared__ typename Pass::Shared shared;
    const Block block{.x = blockIdx.x, .y = blockIdx.y, .z = blockIdx.z};
    pass(ThreadBlock{}, block, shared);
}

class Stream {
public:
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { forget(cudaStreamDestroy(stream_)); }
    [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class Event {
public:
    explicit Event(unsigned flags) { check(cudaEventCreateWithFlags(&event_, flags), "making an event"); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    Event(Event&& other) noexcept : event_(other.event_) { other.event_ = nullptr; }
    Event& operator=(Event&&) = delete;
    ~Event() {
        if (event_ != nullptr) {
            forget(cudaEventDestroy(event_));
        }
    }
    [[nodiscard]] cudaEvent_t get() const noexcept { return event_; }

private:
    cudaEvent_t event_ = nullptr;
};

/// A cuFFT plan whose work area is ours, so that all plans of a workspace share one.
class FftPlan final : public DeviceTransform {
public:
    FftPlan(TransformKind kind, Index length, Index batch, cudaStream_t stream) : kind_(kind) {
        check(cufftCreate(&plan_), "making a transform");
        try {
            make(length, batch, stream);
        } catch (...) {
            static_cast<void>(cufftDestroy(plan_));
            throw;
        }
    }
    ~FftPlan() override { static_cast<void>(cufftDestroy(plan_)); }
    [[nodiscard]] std::size_t work_bytes() const noexcept override { return work_bytes_; }

    void execute(void* from, void* to, void* work) {
        if (work_bytes_ > 0 && work != work_) { // a plan that needs none refuses a null pointer
            check(cufftSetWorkArea(plan_, work), "giving a transform its memory");
            work_ = work;
        }
        switch (kind_) {
        case TransformKind::rows:
            check(cufftExecR2C(plan_, static_cast<cufftReal*>(from), static_cast<cufftComplex*>(to)),
                  "transforming the rows of windows");
            return;
        case TransformKind::columns:
            check(cufftExecC2C(plan_, static_cast<cufftComplex*>(from), static_cast<cufftComplex*>(to), CUFFT_FORWARD),
                  "transforming the columns of windows");
            return;
        case TransformKind::images:
            check(cufftExecC2R(plan_, static_cast<cufftComplex*>(from), static_cast<cufftReal*>(to)),
                  "transforming images back");
            return;
        }
    }

private:
    void make(Index length, Index batch, cudaStream_t stream) {
        static_assert(sizeof(Coefficient) == sizeof(cufftComplex) && alignof(Coefficient) == alignof(cufftComplex));
        check(cufftSetAutoAllocation(plan_, 0), "planning a transform");
        long long n[2] = {length, length};
        const int rank = kind_ == TransformKind::images ? 2 : 1;
        const cufftType type = kind_ == TransformKind::rows      ? CUFFT_R2C
                               : kind_ == TransformKind::columns ? CUFFT_C2C
                                                                 : CUFFT_C2R;
        // Null layouts: every array is dense.
        check_plan(cufftMakePlanMany64(plan_, rank, n, nullptr, 1, 0, nullptr, 1, 0, type, batch, &work_bytes_),
                   "planning a transform");
        check(cufftSetStream(plan_, stream), "planning a transform");
    }

    TransformKind kind_;
    cufftHandle plan_ = 0;
    std::size_t work_bytes_ = 0;
    const void* work_ = nullptr;
};

/// Page-locked memory of the host. Large pieces are pages of 2 MB that are locked after they were made: 16 threads that
/// ask for 68 MB each at once wait 84 ms for that, and 567 ms for cudaHostAlloc (16 cores, driver 580).
class PinnedPages {
public:
    static PinnedPages& instance() { // leaked on purpose: memory may be given back after every static is gone
        static auto& one = *new PinnedPages;
        return one;
    }
    void* allocate(std::size_t bytes) {
        if (bytes >= huge) {
            if (void* memory = locked_later((bytes + huge - 1) / huge * huge); memory != nullptr) {
                return memory;
            }
        }
        void* memory = nullptr;
        check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), "allocating pinned memory");
        return memory;
    }
    void release(void* memory) noexcept {
        bool ours = false;
        {
            const std::scoped_lock lock(mutex_);
            ours = ours_.erase(memory) != 0;
        }
        if (!ours) {
            forget(cudaFreeHost(memory));
            return;
        }
        const cudaError_t code = cudaHostUnregister(memory);
        forget(code);
        if (code == cudaSuccess) { // else the device has failed and may still write there
            std::free(memory);
        }
    }

private:
    static constexpr std::size_t huge = std::size_t{2} << 20U;
    static constexpr std::size_t page = 4096;

    /// Null where it cannot be had so.
    void* locked_later(std::size_t bytes) {
        void* memory = std::aligned_alloc(huge, bytes);
        if (memory == nullptr) {
            return nullptr;
        }
        static_cast<void>(madvise(memory, bytes, MADV_HUGEPAGE)); // where that is refused, small pages will do
        for (std::size_t at = 0; at < bytes; at += page) {
            static_cast<std::byte*>(memory)[at] = std::byte{};
        }
        const cudaError_t code = cudaHostRegister(memory, bytes, cudaHostRegisterPortable);
        if (code != cudaSuccess) {
            forget(code);
            std::free(memory);
            return nullptr;
        }
        const std::scoped_lock lock(mutex_);
        ours_.insert(memory);
        return memory;
    }

    std::mutex mutex_;
    std::set<void*> ours_;
};

class CudaQueue final : public Queue {
public:
    explicit CudaQueue(int device) : device_(device) { // the caller has chosen the device
    }

    void* allocate(Where where, std::size_t bytes) override {
        void* memory = nullptr;
        if (where == Where::device) {
            check(cudaMalloc(&memory, bytes), "allocating device memory");
        } else {
            memory = PinnedPages::instance().allocate(bytes);
        }
        return memory;
    }
    void release(Where where, void* memory) noexcept override {
        if (where == Where::device) {
            forget(cudaFree(memory));
        } else {
            PinnedPages::instance().release(memory);
        }
    }
    std::size_t free_bytes() override {
        std::size_t free = 0;
        std::size_t total = 0;
        check(cudaMemGetInfo(&free, &total), "asking for free device memory");
        return free;
    }
    bool is_pinned(const void* memory) override {
        cudaPointerAttributes attributes{};
        check(cudaPointerGetAttributes(&attributes, memory), "asking what memory is");
        return attributes.type == cudaMemoryTypeHost;
    }
    bool can_use(const void* memory) override {
        cudaPointerAttributes attributes{};
        check(cudaPointerGetAttributes(&attributes, memory), "asking what memory is");
        switch (attributes.type) {
        case cudaMemoryTypeDevice:
            return attributes.device == device_;
        case cudaMemoryTypeHost: // pinned: its address is the same on the device
            return attributes.devicePointer == memory;
        case cudaMemoryTypeManaged:
            return true;
        default:
            return false;
        }
    }

    void fill_zero(void* memory, std::size_t bytes) override {
        check(cudaMemsetAsync(memory, 0, bytes, stream_.get()), "clearing device memory");
    }
    void upload(void* to, const void* from, std::size_t bytes) override {
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_.get()), "copying to the device");
    }
    void upload_rows(void* to, const void* from, std::size_t from_stride, std::size_t bytes,
                     std::size_t rows) override {
        if (from_stride == bytes) {
            upload(to, from, bytes * rows);
            return;
        }
        check(cudaMemcpy2DAsync(to, bytes, from, from_stride, bytes, rows, cudaMemcpyHostToDevice, stream_.get()),
              "copying a micrograph to the device");
    }
    void download(void* to, const void* from, std::size_t bytes) override {
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_.get()), "copying from the device");
    }
    void copy(void* to, const void* from, std::size_t bytes) override {
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_.get()), "copying on the device");
    }

    std::unique_ptr<DeviceTransform> plan(TransformKind kind, Index length, Index batch) override {
        return std::make_unique<FftPlan>(kind, length, batch, stream_.get());
    }
    void transform(DeviceTransform& plan, void* from, void* to, void* work) override {
        static_cast<FftPlan&>(plan).execute(from, to, work);
    }

    void run(const WindowSums& pass, Block blocks) override { launch(pass, blocks, "summing windows"); }
    void run(const Gather& pass, Block blocks) override { launch(pass, blocks, "gathering windows"); }
    void run(const ToColumns& pass, Block blocks) override { launch(pass, blocks, "turning rows into columns"); }
    void run(const Crop& pass, Block blocks) override { launch(pass, blocks, "cropping transforms"); }
    void run(const FinishImages& pass, Block blocks) override { launch(pass, blocks, "finishing images"); }
    void run(const Clear& pass, Block blocks) override { launch(pass, blocks, "clearing rejected images"); }

    void wait_for(std::uintptr_t stream) override {
        const Event done(cudaEventDisableTiming);
        // The numbers 1 and 2, for the two default streams, are CUDA's own names of them.
        check(cudaEventRecord(done.get(), reinterpret_cast<cudaStream_t>(stream)), "waiting for another stream");
        check(cudaStreamWaitEvent(stream_.get(), done.get(), 0), "waiting for another stream");
    }
    void mark(std::size_t place) override {
        while (marks_.size() <= place) {
            marks_.emplace_back(cudaEventDefault);
        }
        check(cudaEventRecord(marks_[place].get(), stream_.get()), "noting the time");
    }
    double milliseconds(std::size_t from, std::size_t to) override {
        float elapsed = 0;
        check(cudaEventElapsedTime(&elapsed, marks_[from].get(), marks_[to].get()), "reading the time");
        return static_cast<double>(elapsed);
    }
    void synchronize() override {
        check(cudaEventRecord(done_.get(), stream_.get()), "working on the device");
        // A short wait is over sooner when asked for again and again; a longer one leaves the core to other workers.
        const auto patience = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
        cudaError_t code = cudaEventQuery(done_.get());
        while (code == cudaErrorNotReady && std::chrono::steady_clock::now() < patience) {
            code = cudaEventQuery(done_.get());
        }
        if (code == cudaErrorNotReady) {
            forget(code);
            code = cudaEventSynchronize(done_.get());
        }
        check(code, "working on the device");
    }

private:
    template <class Pass>
    void launch(const Pass& pass, Block blocks, const char* what) {
        cudaLaunchConfig_t config{};
        config.gridDim =
            dim3(static_cast<unsigned>(blocks.x), static_cast<unsigned>(blocks.y), static_cast<unsigned>(blocks.z));
        config.blockDim = dim3(Pass::threads);
        config.stream = stream_.get();
        // Its own result: cudaGetLastError would also tell of what somebody else forgot.
        check(cudaLaunchKernelEx(&config, run_pass<Pass>, pass), what);
    }

    int device_;
    Stream stream_;
    Event done_{cudaEventDisableTiming | cudaEventBlockingSync};
    std::vector<Event> marks_;
};

std::string version_text(int version) { // 13000 is 13.0
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// How many devices there are, and why none can be used; "" if one can.
std::string why_not(int& count) {
    const cudaError_t code = cudaGetDeviceCount(&count);
    forget(code);
    switch (code) {
    case cudaSuccess:
        return count > 0 ? "" : "no NVIDIA GPU in this host, or CUDA_VISIBLE_DEVICES hides it";
    case cudaErrorNoDevice:
        return "no NVIDIA GPU in this host, or CUDA_VISIBLE_DEVICES hides it";
    case cudaErrorInsufficientDriver: {
        int driver = 0;
        static_cast<void>(cudaDriverGetVersion(&driver));
        return driver == 0 ? "no NVIDIA driver on this host"
                           : "the NVIDIA driver is too old: it runs CUDA " + version_text(driver) +
                                 ", this build of cryobox needs " + version_text(CUDART_VERSION / 1000 * 1000);
    }
    default:
        return std::string("CUDA cannot be used: ") + cudaGetErrorString(code);
    }
}

using PrimaryContextState = decltype(&cuDevicePrimaryCtxGetState);

/// The driver's function, which is not linked, so that the module loads without a driver; null where there is none.
PrimaryContextState primary_context_state() noexcept {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const auto code =
        cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &function, 12000, cudaEnableDefault, &found);
#else
    const auto code = cudaGetDriverEntryPoint("cuDevicePrimaryCtxGetState", &function, cudaEnableDefault, &found);
#endif
    forget(code);
    const bool there = code == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return there ? reinterpret_cast<PrimaryContextState>(function) : nullptr;
}

/// Whether this process has a context on a device already, so that choosing it costs nothing.
bool is_in_use(int device) noexcept {
    static const PrimaryContextState state = primary_context_state();
    unsigned flags = 0;
    int active = 0;
    return state != nullptr && state(device, &flags, &active) == CUDA_SUCCESS && active != 0;
}

DeviceInfo info_of(int index, bool closely) {
    DeviceInfo info;
    info.index = index;
    cudaDeviceProp properties{};
    try {
        check(cudaGetDeviceProperties(&properties, index), "asking what the device is");
        info.name = properties.name;
        info.capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
        info.multiprocessors = properties.multiProcessorCount;
        info.total_bytes = properties.totalGlobalMem;
        char bus[32] = {};
        check(cudaDeviceGetPCIBusId(bus, sizeof(bus), index), "asking where the device is");
        info.bus = bus;
        if (!closely) {
            return info;
        }
        // Does this build hold code for it? Asked of one pass; all are built alike.
        const OnDevice chosen(index);
        cudaFuncAttributes attributes{};
        check(cudaFuncGetAttributes(&attributes, run_pass<Clear>), "looking for code that runs on the device");
        std::size_t total = 0;
        check(cudaMemGetInfo(&info.free_bytes, &total), "asking for free device memory");
    } catch (const std::runtime_error& error) {
        info.problem = error.what();
    }
    return info;
}

} // namespace

OnDevice::OnDevice(int device) : device_(device) {
    const auto code = cudaGetDevice(&before_);
    if (code != cudaSuccess) { // of a device that has failed; that must not keep the thread from another one
        forget(code);
        before_ = device;
    }
    check(cudaSetDevice(device), "choosing the device");
}

OnDevice::~OnDevice() {
    // Choosing a device makes a context on it, which takes some hundred megabytes: not on one that nobody uses.
    if (before_ != device_ && is_in_use(before_)) {
        forget(cudaSetDevice(before_));
    }
}

std::unique_ptr<Queue> make_queue(int device) {
    int count = 0;
    const std::string problem = why_not(count);
    if (!problem.empty()) {
        throw std::runtime_error(problem);
    }
    if (device < 0 || device >= count) {
        throw std::runtime_error("there is no GPU " + std::to_string(device) + "; this host has " +
                                 std::to_string(count) + ", numbered from 0");
    }
    const OnDevice chosen(device);
    return std::make_unique<CudaQueue>(device);
}

Survey survey(std::span<const int> closely) {
    Survey found;
    found.runtime = version_text(CUDART_VERSION);
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver != 0) {
        found.driver = version_text(driver);
    }
    int cufft = 0;
    if (cufftGetVersion(&cufft) == CUFFT_SUCCESS) { // 12000 is 12.0.0
        found.cufft =
            std::to_string(cufft / 1000) + "." + std::to_string(cufft % 1000 / 100) + "." + std::to_string(cufft % 100);
    }
    int count = 0;
    found.problem = why_not(count);
    if (found.problem.empty()) {
        for (int index = 0; index < count; ++index) {
            found.devices.push_back(info_of(index, closely.empty() || std::ranges::count(closely, index) > 0));
        }
    }
    return found;
}

int dlpack_device_type() noexcept { return 2; }

} // namespace cryobox::cuda
