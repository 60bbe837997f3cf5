// What a GPU cannot go below on a case: its bus, its memory, and cuFFT's bare transforms. No kernels of ours.
//
//   gpu_floors --device D --box N --sizes M[,K] [--group G] [--bytes B]
//
// One JSON line on stdout; GB are 1e9 bytes. Every figure is the median of `laps`, from the device's own events, after
// as many that are not counted. Memory is pinned and written before a clock starts.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <cuda_runtime.h>
#include <cufft.h>

namespace {

constexpr int laps = 10;

void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess)
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
}
void check(cufftResult code, const char* what) {
    if (code != CUFFT_SUCCESS)
        throw std::runtime_error(std::string(what) + ": cuFFT error " + std::to_string(static_cast<int>(code)));
}

enum class Where { device, pinned };

/// Memory full of zeros: transforms of transforms would overflow, and cuFFT's time does not depend on the values.
class Memory {
public:
    Memory(Where where, std::size_t bytes) : where_(where) {
        if (where == Where::device) {
            check(cudaMalloc(&data_, bytes), "allocating device memory");
            check(cudaMemset(data_, 0, bytes), "clearing device memory");
            check(cudaDeviceSynchronize(), "clearing device memory"); // our streams would not wait for it
        } else {
            check(cudaMallocHost(&data_, bytes), "allocating pinned memory");
            std::memset(data_, 0, bytes);
        }
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() { static_cast<void>(where_ == Where::device ? cudaFree(data_) : cudaFreeHost(data_)); }
    template <class T>
    [[nodiscard]] T* as() const {
        return static_cast<T*>(data_);
    }

private:
    Where where_;
    void* data_ = nullptr;
};

class Stream {
public:
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
    [[nodiscard]] cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class Event {
public:
    explicit Event(unsigned flags = cudaEventDefault) {
        check(cudaEventCreateWithFlags(&event_, flags), "making an event");
    }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
    void record(const Stream& stream) const { check(cudaEventRecord(event_, stream.get()), "noting the time"); }
    [[nodiscard]] cudaEvent_t get() const { return event_; }

private:
    cudaEvent_t event_ = nullptr;
};

/// Median seconds of `work()`, which gives work to `stream`.
template <class Work>
double seconds_of(const Stream& stream, const Work& work) {
    std::vector<double> seconds;
    const Event begin;
    const Event end;
    for (int lap = 0; lap < 2 * laps; ++lap) {
        begin.record(stream);
        work();
        end.record(stream);
        check(cudaEventSynchronize(end.get()), "working on the device");
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "reading the time");
        if (lap >= laps)
            seconds.push_back(static_cast<double>(milliseconds) / 1e3);
    }
    std::ranges::nth_element(seconds, seconds.begin() + laps / 2);
    return seconds[laps / 2];
}

class Transform {
public:
    Transform(std::vector<long long> lengths, cufftType type, long long batch, const Stream& stream) {
        std::size_t work = 0;
        check(cufftCreate(&plan_), "planning a transform");
        check(cufftMakePlanMany64(plan_, static_cast<int>(lengths.size()), lengths.data(), nullptr, 1, 0, nullptr, 1, 0,
                                  type, batch, &work),
              "planning a transform");
        check(cufftSetStream(plan_, stream.get()), "planning a transform");
    }
    Transform(const Transform&) = delete;
    Transform& operator=(const Transform&) = delete;
    ~Transform() { static_cast<void>(cufftDestroy(plan_)); }
    [[nodiscard]] cufftHandle get() const { return plan_; }

private:
    cufftHandle plan_ = 0;
};

/// Seconds of the transforms of `group` particles: rows, the columns that the largest size keeps, one inverse per size.
double transforms(const Stream& stream, long long box, const std::vector<long long>& sizes, long long group) {
    const long long columns = sizes.front() / 2 + 1;
    const auto elements = [](long long count) { return static_cast<std::size_t>(count); };
    const Memory windows(Where::device, elements(group * box * box) * sizeof(float));
    const Memory spectra(Where::device, elements(group * box * (box / 2 + 1)) * sizeof(cufftComplex));
    const Memory kept(Where::device, elements(group * columns * box) * sizeof(cufftComplex));
    const Memory images(Where::device, elements(group * sizes.front() * sizes.front()) * sizeof(float));
    const Transform rows({box}, CUFFT_R2C, group * box, stream);
    const Transform over_columns({box}, CUFFT_C2C, group * columns, stream);
    std::vector<double> parts;
    parts.push_back(seconds_of(stream, [&] {
        check(cufftExecR2C(rows.get(), windows.as<cufftReal>(), spectra.as<cufftComplex>()), "transforming rows");
    }));
    parts.push_back(seconds_of(stream, [&] {
        check(cufftExecC2C(over_columns.get(), kept.as<cufftComplex>(), kept.as<cufftComplex>(), CUFFT_FORWARD),
              "transforming columns");
    }));
    for (const long long size : sizes) {
        const Transform back({size, size}, CUFFT_C2R, group, stream);
        parts.push_back(seconds_of(stream, [&] {
            check(cufftExecC2R(back.get(), spectra.as<cufftComplex>(), images.as<cufftReal>()), "transforming back");
        }));
    }
    double sum = 0;
    for (const double part : parts)
        sum += part;
    return sum;
}

void measure(int device, long long box, const std::vector<long long>& sizes, long long group, std::size_t bytes) {
    check(cudaSetDevice(device), "choosing the device");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "asking what the device is");
    const Stream stream;
    const auto gigabytes = [](std::size_t moved, double seconds) { return static_cast<double>(moved) / seconds / 1e9; };
    double up = 0;
    double down = 0;
    double both = 0;
    double memory = 0;
    {
        const Memory here(Where::device, bytes);
        const Memory there(Where::device, bytes);
        const Memory from(Where::pinned, bytes);
        const Memory to(Where::pinned, bytes);
        const Stream other;
        const Event begun(cudaEventDisableTiming);
        const Event ended(cudaEventDisableTiming);
        const auto upload = [&](const Stream& on) {
            check(cudaMemcpyAsync(here.as<void>(), from.as<void>(), bytes, cudaMemcpyHostToDevice, on.get()),
                  "copying to the device");
        };
        const auto download = [&](const Stream& on) {
            check(cudaMemcpyAsync(to.as<void>(), there.as<void>(), bytes, cudaMemcpyDeviceToHost, on.get()),
                  "copying from the device");
        };
        up = gigabytes(bytes, seconds_of(stream, [&] { upload(stream); }));
        down = gigabytes(bytes, seconds_of(stream, [&] { download(stream); }));
        both = gigabytes(2 * bytes, seconds_of(stream, [&] {
                             begun.record(stream);
                             check(cudaStreamWaitEvent(other.get(), begun.get(), 0), "waiting for a stream");
                             download(other);
                             ended.record(other);
                             upload(stream);
                             check(cudaStreamWaitEvent(stream.get(), ended.get(), 0), "waiting for a stream");
                         }));
        memory = gigabytes(
            2 * bytes, seconds_of(stream, [&] { // read and written
                check(cudaMemcpyAsync(there.as<void>(), here.as<void>(), bytes, cudaMemcpyDeviceToDevice, stream.get()),
                      "copying on the device");
            }));
    }
    std::printf("{\"model\": \"%s\", \"upload_gb_s\": %.3f, \"download_gb_s\": %.3f, \"both_ways_gb_s\": %.3f, "
                "\"memory_gb_s\": %.3f",
                properties.name, up, down, both, memory);
    if (!sizes.empty()) // of a case that crops
        std::printf(", \"cufft_particles_per_second\": %.1f",
                    static_cast<double>(group) / transforms(stream, box, sizes, group));
    std::printf("}\n");
}

std::vector<long long> numbers(const std::string& list) {
    std::vector<long long> all;
    for (std::size_t at = 0; at < list.size();) {
        const std::size_t comma = std::min(list.find(',', at), list.size());
        all.push_back(std::stoll(list.substr(at, comma - at)));
        at = comma + 1;
    }
    return all;
}

} // namespace

int main(int argc, char** argv) {
    try {
        int device = 0;
        long long box = 0;
        std::vector<long long> sizes;
        long long group = 64; // as the pipeline's
        std::size_t bytes = std::size_t{256} << 20U;
        for (int i = 1; i + 1 < argc; i += 2) {
            const std::string name = argv[i];
            const std::string value = argv[i + 1];
            if (name == "--device")
                device = std::stoi(value);
            else if (name == "--box")
                box = std::stoll(value);
            else if (name == "--sizes")
                sizes = numbers(value);
            else if (name == "--group")
                group = std::stoll(value);
            else if (name == "--bytes")
                bytes = std::stoull(value);
            else
                throw std::invalid_argument("there is no " + name);
        }
        sizes.erase(std::remove(sizes.begin(), sizes.end(), box), sizes.end()); // those are not transformed
        measure(device, box, sizes, group, bytes);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "gpu_floors: %s\n", error.what());
        return 1;
    }
    return 0;
}
