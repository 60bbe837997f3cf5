// The work of `extract` on a GPU. Nothing here needs CUDA to include; the library exists or it does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cryobox/extract.hpp"
#include "cryobox/image.hpp"

namespace cryobox::cuda {

struct DeviceInfo {
    int index = 0;
    std::string name;
    std::string capability; ///< "9.0"
    std::string bus;        ///< where it is plugged in
    int multiprocessors = 0;
    std::size_t total_bytes = 0;
    std::size_t free_bytes = 0; ///< 0 where nobody looked closely
    std::string problem;        ///< why it cannot be used; "" if it can
};

/// What this host offers.
struct Survey {
    std::string problem; ///< why there is no device at all; "" if there is one
    std::string runtime; ///< versions, "13.0"; "" where unknown
    std::string driver;
    std::string cufft;
    std::vector<DeviceInfo> devices;
};

/// Never throws for a missing driver or device: it says so. A close look at a device makes a context on it, which stays
/// and takes some of its memory.
Survey survey(std::span<const int> closely = {}); ///< at these devices; empty: at all

/// Where the pixels of an image or a stack lie.
enum class Place : std::uint8_t { host, device };

/// Milliseconds of the device by stage.
struct Stages {
    double upload = 0;
    double gather = 0;
    double rows = 0;
    double columns = 0;
    double inverse = 0;
    double finish = 0;
    double download = 0;
};

/// How a call uses a device.
struct Use {
    int device = 0;
    Place image = Place::host;
    Place outputs = Place::host;
    std::size_t memory = 0; ///< bytes of the device that this call may use; 0: half of what is free
    /// Of other libraries, whose work on images or outputs on the device must be done first (1: the default stream).
    std::span<const std::uintptr_t> streams = {}; // NOLINT(readability-redundant-member-init): else GCC misses one
    Stages* stages = nullptr;                     ///< filled where given; the call is slower then
};

/// So many calls on one device run at the same time, others wait for their turn: what a device holds does not grow with
/// the callers. An H200 is full with 4; more help those whose memory is not pinned.
inline constexpr int most_callers = 8;

/// As `cryobox::extract`, on a device: same arguments, order, meaning and refusals. `options.threads` is not used.
/// Callers in several threads have a queue, buffers and transforms each, and overlap, up to `most_callers`.
/// @throws std::invalid_argument before anything is written; std::runtime_error if the device fails or its memory does
/// not hold one particle's work; the outputs are undefined then
void extract(const ImageView& image, std::span<const Corner> corners, std::span<const StackView> outputs,
             const ExtractOptions& options, const Use& use, std::span<Status> status, std::span<double> statistics);

/// For its lifetime the calling thread speaks to a device, and then again to the one that it spoke to before: other
/// libraries in the thread count on that.
class OnDevice {
public:
    /// @throws std::runtime_error
    explicit OnDevice(int device);
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    OnDevice(OnDevice&&) = delete;
    OnDevice& operator=(OnDevice&&) = delete;
    ~OnDevice();

private:
    int device_;
    int before_ = 0;
};

/// Memory of a device or pinned memory of the host, and its end.
class Memory {
public:
    /// @throws std::runtime_error
    static std::shared_ptr<Memory> on_device(int device, std::size_t bytes);
    static std::shared_ptr<Memory> pinned(int device, std::size_t bytes);

    Memory() = default;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    Memory(Memory&&) = delete;
    Memory& operator=(Memory&&) = delete;
    virtual ~Memory() = default;
    [[nodiscard]] virtual std::byte* data() const noexcept = 0;
};

/// Copies that are done when the call returns.
void upload(int device, const ImageView& image, Index first_row, Index last_row, std::byte* to);
void download(int device, std::byte* to, const std::byte* from, std::size_t bytes);
/// The images of a stack that are wanted, one behind the other, from one place on a device to another.
void compact(int device, std::byte* to, const std::byte* from, std::size_t bytes_each,
             std::span<const std::uint8_t> wanted);

/// Give back what idle workers keep on a device.
void release_idle(int device) noexcept;

/// Which DLPack device type pointers of this build's devices have: 2 for CUDA.
int dlpack_device_type() noexcept;

} // namespace cryobox::cuda
