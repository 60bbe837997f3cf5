// The seam between what a GPU does and how its work is planned: memory, copies, transforms and passes in order on one
// queue. cuda_device.cu is the GPU; tests/gpu/standin_device.cpp is a processor that does the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cryobox/cuda.hpp"
#include "passes.hpp"

namespace cryobox::cuda {

/// Device or pinned memory ran out. `extract` tries again with less.
class OutOfMemory : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

enum class Where : std::uint8_t { device, pinned };

/// Batched transforms, unscaled; every array is dense, one transform behind the other.
enum class TransformKind : std::uint8_t {
    rows,    ///< `length` floats to length / 2 + 1 coefficients
    columns, ///< `length` coefficients in place
    images,  ///< length x (length / 2 + 1) coefficients to length x length floats; the input is destroyed
};

/// A planned transform.
class DeviceTransform {
public:
    DeviceTransform() = default;
    DeviceTransform(const DeviceTransform&) = delete;
    DeviceTransform& operator=(const DeviceTransform&) = delete;
    DeviceTransform(DeviceTransform&&) = delete;
    DeviceTransform& operator=(DeviceTransform&&) = delete;
    virtual ~DeviceTransform() = default;
    [[nodiscard]] virtual std::size_t work_bytes() const noexcept = 0;
};

/// Work on one device in the order in which it is given. Everything but `synchronize` returns before it is done. Every
/// call but the constructor's comes from a thread that is `OnDevice`.
/// @throws OutOfMemory, std::runtime_error that says what was being done
class Queue {
public:
    Queue() = default;
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;
    Queue(Queue&&) = delete;
    Queue& operator=(Queue&&) = delete;
    virtual ~Queue() = default;

    [[nodiscard]] virtual void* allocate(Where where, std::size_t bytes) = 0;
    virtual void release(Where where, void* memory) noexcept = 0;
    [[nodiscard]] virtual std::size_t free_bytes() = 0;
    /// Whether copies may read or write this memory of the host while the caller goes on.
    [[nodiscard]] virtual bool is_pinned(const void* memory) = 0;
    /// Whether passes of this device may use this address: not if it is another device's, or plain memory of the host.
    [[nodiscard]] virtual bool can_use(const void* memory) = 0;

    virtual void fill_zero(void* memory, std::size_t bytes) = 0;
    virtual void upload(void* to, const void* from, std::size_t bytes) = 0;
    /// `rows` rows of `bytes` bytes each, `from_stride` apart (at least `bytes`), into rows without gaps.
    virtual void upload_rows(void* to, const void* from, std::size_t from_stride, std::size_t bytes,
                             std::size_t rows) = 0;
    virtual void download(void* to, const void* from, std::size_t bytes) = 0;
    virtual void copy(void* to, const void* from, std::size_t bytes) = 0;

    [[nodiscard]] virtual std::unique_ptr<DeviceTransform> plan(TransformKind kind, Index length, Index batch) = 0;
    virtual void transform(DeviceTransform& plan, void* from, void* to, void* work) = 0;

    virtual void run(const WindowSums& pass, Block blocks) = 0;
    virtual void run(const Gather& pass, Block blocks) = 0;
    virtual void run(const ToColumns& pass, Block blocks) = 0;
    virtual void run(const Crop& pass, Block blocks) = 0;
    virtual void run(const FinishImages& pass, Block blocks) = 0;
    virtual void run(const Clear& pass, Block blocks) = 0;

    /// Wait for work that another library gave to its stream of the same device (1: the default stream).
    virtual void wait_for(std::uintptr_t stream) = 0;
    /// Note the time at this place of the queue, in `place` of a list that grows.
    virtual void mark(std::size_t place) = 0;
    /// Milliseconds between two marks; after `synchronize`.
    [[nodiscard]] virtual double milliseconds(std::size_t from, std::size_t to) = 0;
    /// Wait until everything is done.
    virtual void synchronize() = 0;
};

/// A new queue on a device.
/// @throws std::runtime_error if there is no such device, or no driver
std::unique_ptr<Queue> make_queue(int device);

} // namespace cryobox::cuda
