// DLPack's structures, as its specification lays them out (https://dmlc.github.io/dlpack/latest/c_api.html): the
// capsules of others with and without a version, and our arrays as capsules without one, which every library takes.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace cryobox::bindings::dlpack {

namespace py = pybind11;

struct Device {
    std::int32_t type;
    std::int32_t index;
};
struct Type {
    std::uint8_t code; ///< 0 signed, 1 unsigned, 2 float
    std::uint8_t bits;
    std::uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    Type dtype;
    std::int64_t* shape;
    std::int64_t* strides; ///< in elements; null: C-contiguous
    std::uint64_t byte_offset;
};
struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor*);
};

struct ManagedTensorVersioned { // of version 1
    std::uint32_t major;
    std::uint32_t minor;
    void* context;
    void (*deleter)(ManagedTensorVersioned*);
    std::uint64_t flags;
    Tensor tensor;
};
inline constexpr std::uint64_t read_only = 1; ///< flags
inline constexpr std::uint64_t is_copied = 2; ///< whoever writes to it writes to nobody's array

/// What a capsule holds, which keeps it alive: we never take it over.
struct Opened {
    const Tensor& tensor;
    bool versioned; ///< then it says whether it may be written to
    bool writable;
};

inline Opened open(const py::object& capsule) {
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
        const auto* managed =
            static_cast<ManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
        if (managed->major != 1) {
            throw std::invalid_argument("DLPack version 1 is read; the array offers " + std::to_string(managed->major));
        }
        return {
            .tensor = managed->tensor, .versioned = true, .writable = (managed->flags & (read_only | is_copied)) == 0};
    }
    const auto* managed = static_cast<ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (managed == nullptr) {
        throw py::error_already_set();
    }
    return {.tensor = managed->tensor, .versioned = false, .writable = false};
}

inline py::dtype numpy_type(Type type) {
    const char* const kind = type.code == 0 ? "i" : type.code == 1 ? "u" : type.code == 2 ? "f" : nullptr;
    if (kind == nullptr || type.lanes != 1 || type.bits % 8 != 0 || (type.code == 2 && type.bits == 8)) {
        throw std::invalid_argument("the array's pixels must be integers or floats");
    }
    return py::dtype(kind + std::to_string(type.bits / 8));
}

/// What a capsule of ours keeps.
struct Shared {
    ManagedTensor managed{};
    std::shared_ptr<void> memory;
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides; // given, since later versions of DLPack do not allow null
};

inline py::object wrap(std::shared_ptr<void> memory, void* data, const std::vector<py::ssize_t>& shape,
                       const py::dtype& dtype, int device_type, int device) {
    const char kind = dtype.kind();
    auto shared = std::make_unique<Shared>();
    shared->memory = std::move(memory);
    shared->shape.assign(shape.begin(), shape.end());
    shared->strides.resize(shape.size(), 1);
    for (std::size_t axis = shape.size(); axis-- > 1;) {
        shared->strides[axis - 1] = shared->strides[axis] * shared->shape[axis];
    }
    shared->managed.tensor = Tensor{.data = data,
                                    .device = {.type = device_type, .index = device_type == 1 ? 0 : device},
                                    .ndim = static_cast<std::int32_t>(shape.size()),
                                    .dtype = {.code = static_cast<std::uint8_t>(kind == 'i'   ? 0
                                                                                : kind == 'u' ? 1
                                                                                              : 2),
                                              .bits = static_cast<std::uint8_t>(dtype.itemsize() * 8),
                                              .lanes = 1},
                                    .shape = shared->shape.data(),
                                    .strides = shared->strides.data(),
                                    .byte_offset = 0};
    shared->managed.context = shared.get();
    shared->managed.deleter = [](ManagedTensor* tensor) { delete static_cast<Shared*>(tensor->context); };
    // A capsule that nobody has taken over, by renaming it, frees what it holds.
    PyObject* capsule = PyCapsule_New(&shared->managed, "dltensor", [](PyObject* object) {
        if (PyCapsule_IsValid(object, "dltensor") != 0) {
            auto* tensor = static_cast<ManagedTensor*>(PyCapsule_GetPointer(object, "dltensor"));
            tensor->deleter(tensor);
        }
    });
    if (capsule == nullptr) {
        throw py::error_already_set();
    }
    static_cast<void>(shared.release()); // NOLINT(bugprone-unused-return-value): the capsule's now
    return py::reinterpret_steal<py::object>(capsule);
}

} // namespace cryobox::bindings::dlpack
