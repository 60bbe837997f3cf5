// cryobox._cuda: the core on GPUs for Python. Arrays of the host and of the device become views; the interpreter is let
// go around each call. Importing it needs no driver.
#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/stl.h>

#include "cryobox/cuda.hpp"
#include "cryobox/extract.hpp"
#include "dlpack.hpp"
#include "ndarray.hpp"
#include "options.hpp"

namespace cryobox::bindings {
namespace {

/// A C-contiguous array in the memory of a device.
struct DeviceArray {
    std::shared_ptr<cuda::Memory> memory;
    std::vector<py::ssize_t> shape;
    py::dtype dtype;
    int device = 0;

    [[nodiscard]] py::ssize_t elements() const {
        py::ssize_t count = 1;
        for (const py::ssize_t side : shape) {
            count *= side;
        }
        return count;
    }
    [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(elements() * dtype.itemsize()); }
};

/// Memory that is given back without the interpreter: CUDA first waits for all that the device is doing.
std::shared_ptr<cuda::Memory> given_back_alone(std::shared_ptr<cuda::Memory> memory) {
    auto* const held = memory.get();
    return {held, [memory = std::move(memory)](cuda::Memory*) mutable {
                // Not PyGILState_Check, which says yes where it does not know: after the interpreter's end, say.
                const PyThreadState* const mine = PyGILState_GetThisThreadState();
                if (mine != nullptr && mine == py::detail::get_thread_state_unchecked()) {
                    const py::gil_scoped_release released;
                    memory.reset();
                } else { // of a library that let it go, or whose thread knows no interpreter
                    memory.reset();
                }
            }};
}

DeviceArray empty(std::vector<py::ssize_t> shape, const py::object& dtype, int device) {
    DeviceArray array{
        .memory = nullptr, .shape = std::move(shape), .dtype = py::dtype::from_args(dtype), .device = device};
    for (const py::ssize_t side : array.shape) {
        if (side < 0) {
            throw std::invalid_argument("every side must be at least 0");
        }
    }
    const std::size_t bytes = array.bytes();
    const py::gil_scoped_release released;
    array.memory = given_back_alone(cuda::Memory::on_device(device, bytes));
    return array;
}

DeviceArray upload(const py::array& image, int device, py::ssize_t first_row, py::ssize_t last_row) {
    const ImageView view = bindings::image_view(image);
    if (first_row < 0 || last_row > view.height || first_row > last_row) {
        throw std::invalid_argument("rows must lie inside the image");
    }
    DeviceArray array = empty({view.height, view.width}, image.dtype(), device);
    const py::gil_scoped_release released;
    cuda::upload(device, view, first_row, last_row, array.memory->data());
    return array;
}

py::array to_host(const DeviceArray& array) {
    py::array result(array.dtype, array.shape);
    auto* to = static_cast<std::byte*>(result.mutable_data());
    {
        const py::gil_scoped_release released;
        cuda::download(array.device, to, array.memory->data(), array.bytes());
    }
    return result;
}

DeviceArray compact(const DeviceArray& array, const py::array& wanted) {
    if (array.shape.empty() || wanted.ndim() != 1 || wanted.shape(0) != array.shape[0] || wanted.itemsize() != 1) {
        throw std::invalid_argument("wanted must be one boolean for each row");
    }
    require_plain(wanted, "wanted");
    const std::span<const std::uint8_t> flags(static_cast<const std::uint8_t*>(wanted.data()),
                                              static_cast<std::size_t>(wanted.shape(0)));
    std::vector<py::ssize_t> shape = array.shape;
    shape[0] = 0;
    for (const std::uint8_t flag : flags) {
        shape[0] += flag != 0 ? 1 : 0;
    }
    DeviceArray result = empty(shape, array.dtype, array.device);
    const std::size_t each = array.shape[0] == 0 ? 0 : array.bytes() / static_cast<std::size_t>(array.shape[0]);
    const py::gil_scoped_release released;
    cuda::compact(array.device, result.memory->data(), array.memory->data(), each, flags);
    return result;
}

py::dict cuda_array_interface(const DeviceArray& array) {
    py::dict described;
    described["shape"] = py::tuple(py::cast(array.shape));
    described["typestr"] = array.dtype.attr("str");
    // An array without elements has no address, by the interface's own rule.
    auto* const data = array.elements() == 0 ? nullptr : array.memory->data();
    described["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(data), false);
    described["strides"] = py::none();
    described["version"] = 3;
    return described; // no stream: our calls end when the work is done
}

/// What another library's array says of itself.
struct Foreign {
    std::byte* data = nullptr;
    std::vector<py::ssize_t> shape;
    std::vector<py::ssize_t> strides; // bytes; empty: C-contiguous
    py::dtype dtype;
    bool writable = true;
    std::uintptr_t stream = 0; ///< on which its owner may still be at work; 0: on none
    py::object owner;

    [[nodiscard]] py::ssize_t stride(std::size_t axis) const {
        if (!strides.empty()) {
            return strides[axis];
        }
        py::ssize_t step = dtype.itemsize();
        for (std::size_t later = axis + 1; later < shape.size(); ++later) {
            step *= shape[later];
        }
        return step;
    }
    [[nodiscard]] bool is_contiguous() const {
        for (std::size_t axis = 0; axis < shape.size(); ++axis) {
            py::ssize_t step = dtype.itemsize();
            for (std::size_t later = axis + 1; later < shape.size(); ++later) {
                step *= shape[later];
            }
            if (shape[axis] > 1 && stride(axis) != step) {
                return false;
            }
        }
        return true;
    }
};

Foreign from_interface(const py::object& array) {
    const auto described = array.attr("__cuda_array_interface__").cast<py::dict>();
    const auto data = described["data"].cast<std::pair<std::uintptr_t, bool>>();
    Foreign found{.data = reinterpret_cast<std::byte*>(data.first),
                  .shape = described["shape"].cast<std::vector<py::ssize_t>>(),
                  .strides = {},
                  .dtype = py::dtype::from_args(described["typestr"]),
                  .writable = !data.second,
                  .stream = 0,
                  .owner = array};
    if (described.contains("strides") && !described["strides"].is_none()) {
        found.strides = described["strides"].cast<std::vector<py::ssize_t>>();
        if (found.strides.size() != found.shape.size()) {
            throw std::invalid_argument("an array must have as many strides as dimensions");
        }
    }
    if (!described.contains("stream")) {
        // Before version 3 it could not be told. The default stream waits for all that are not made to ignore it.
        const bool told = described.contains("version") && described["version"].cast<int>() >= 3;
        found.stream = told ? 0 : 1;
    } else if (!described["stream"].is_none()) {
        found.stream = described["stream"].cast<std::uintptr_t>();
    }
    return found;
}

std::pair<int, int> dlpack_device(const py::object& array) {
    return array.attr("__dlpack_device__")().cast<std::pair<int, int>>();
}

/// Its capsule, of version 1 where it can make one.
py::object capsule_of(const py::object& array, bool on_gpu) {
    py::dict asked;
    if (on_gpu) { // the producer makes the default stream, 1, wait for its work, and we wait for the default stream
        asked["stream"] = 1;
    }
    try {
        return array.attr("__dlpack__")(**asked, py::arg("max_version") = py::make_tuple(1, 0));
    } catch (const py::error_already_set& error) {
        if (!error.matches(PyExc_TypeError)) { // else it does not know of versions yet
            throw;
        }
        return array.attr("__dlpack__")(**asked);
    }
}

/// Whether a library that does not say so over DLPack says elsewhere that its array may be written to.
bool offers_writing(const py::object& array) {
    if (!py::hasattr(array, "__cuda_array_interface__")) {
        return false;
    }
    const auto described = array.attr("__cuda_array_interface__").cast<py::dict>();
    return !described["data"].cast<std::pair<std::uintptr_t, bool>>().second;
}

Foreign from_dlpack(const py::object& array, int device) {
    const auto where = dlpack_device(array);
    if (where.first != cuda::dlpack_device_type() || (where.first == 2 && where.second != device)) {
        throw std::invalid_argument("the array lies on another device (DLPack says type " +
                                    std::to_string(where.first) + ", number " + std::to_string(where.second) + ")");
    }
    const bool on_gpu = where.first == 2;
    std::optional<cuda::OnDevice> chosen; // PyTorch hands over only what lies on the thread's own device
    if (on_gpu) {
        chosen.emplace(device);
    }
    py::object capsule = capsule_of(array, on_gpu);
    const auto [tensor, versioned, writable] = dlpack::open(capsule);
    Foreign found{.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset,
                  .shape = {tensor.shape, tensor.shape + tensor.ndim},
                  .strides = {},
                  .dtype = dlpack::numpy_type(tensor.dtype),
                  .writable = versioned ? writable : offers_writing(array),
                  .stream = on_gpu ? std::uintptr_t{1} : 0,
                  .owner = capsule};
    for (int axis = 0; tensor.strides != nullptr && axis < tensor.ndim; ++axis) {
        found.strides.push_back(tensor.strides[axis] * found.dtype.itemsize());
    }
    return found;
}

std::optional<Foreign> foreign(const py::object& array, int device) {
    if (py::isinstance<DeviceArray>(array)) {
        const auto& ours = array.cast<const DeviceArray&>();
        if (ours.device != device) {
            throw std::invalid_argument("the array lies on cuda:" + std::to_string(ours.device));
        }
        return Foreign{.data = ours.memory->data(),
                       .shape = ours.shape,
                       .strides = {},
                       .dtype = ours.dtype,
                       .writable = true,
                       .stream = 0,
                       .owner = array};
    }
    if (py::isinstance<py::array>(array)) {
        return std::nullopt;
    }
    // DLPack first: PyTorch's other interface says nothing of streams. But it may call the memory by another name
    // (managed, pinned), where the other one offers it as a device's.
    const bool described = py::hasattr(array, "__cuda_array_interface__");
    if (py::hasattr(array, "__dlpack__") && (!described || dlpack_device(array).first == cuda::dlpack_device_type())) {
        return from_dlpack(array, device);
    }
    if (described) {
        return from_interface(array);
    }
    throw std::invalid_argument("image must be a NumPy array, or offer __cuda_array_interface__ or __dlpack__; got " +
                                py::str(py::type::of(array)).cast<std::string>());
}

ImageView image_view(const Foreign& image) {
    if (image.shape.size() != 2) {
        throw std::invalid_argument("image must have 2 dimensions; got " + std::to_string(image.shape.size()));
    }
    const ImageView view{.data = image.data,
                         .height = image.shape[0],
                         .width = image.shape[1],
                         .row_stride = image.stride(0),
                         .type = pixel_type(image.dtype),
                         .swapped = is_swapped(image.dtype)};
    if (view.width > 1 && image.stride(1) != image.dtype.itemsize()) {
        throw std::invalid_argument("pixels of the image's rows must be adjacent");
    }
    if (view.height > 1 && view.row_stride < view.width * image.dtype.itemsize()) {
        throw std::invalid_argument("rows of the image must not overlap, and must follow each other downward");
    }
    const auto size = static_cast<std::uintptr_t>(image.dtype.itemsize());
    if (reinterpret_cast<std::uintptr_t>(image.data) % size != 0 ||
        static_cast<std::uintptr_t>(view.row_stride) % size != 0) {
        throw std::invalid_argument("pixels of a device image must be aligned");
    }
    return view;
}

StackView stack_view(const Foreign& stack, py::ssize_t count) {
    if (stack.shape.size() != 3 || stack.shape[0] != count || stack.shape[1] != stack.shape[2]) {
        throw std::invalid_argument("every output must have the shape (number of corners, size, size)");
    }
    const auto item = static_cast<std::uintptr_t>(stack.dtype.itemsize());
    if (!stack.is_contiguous() || is_swapped(stack.dtype) || reinterpret_cast<std::uintptr_t>(stack.data) % item != 0) {
        throw std::invalid_argument("every output must be C-contiguous, aligned and in native byte order");
    }
    if (!stack.writable) {
        throw std::invalid_argument(
            "every output must be writable, and say so: over DLPack 1.0 or __cuda_array_interface__");
    }
    StackView view{.float32 = nullptr, .float16 = nullptr, .size = stack.shape[1]};
    if (stack.dtype.kind() == 'f' && stack.dtype.itemsize() == 4) {
        view.float32 = reinterpret_cast<float*>(stack.data);
    } else if (stack.dtype.kind() == 'f' && stack.dtype.itemsize() == 2) {
        view.float16 = reinterpret_cast<Half*>(stack.data);
    } else {
        throw std::invalid_argument("every output must be float32 or float16");
    }
    return view;
}

py::dict as_dict(const cuda::Stages& stages) {
    py::dict milliseconds;
    milliseconds["upload"] = stages.upload;
    milliseconds["gather"] = stages.gather;
    milliseconds["rows"] = stages.rows;
    milliseconds["columns"] = stages.columns;
    milliseconds["inverse"] = stages.inverse;
    milliseconds["finish"] = stages.finish;
    milliseconds["download"] = stages.download;
    return milliseconds;
}

py::tuple extract(const py::object& image, const py::array& corners, const std::vector<py::object>& outputs, int device,
                  std::size_t memory, std::optional<py::dict> stages, const py::kwargs& given) {
    const std::optional<Foreign> device_image = foreign(image, device);
    const ImageView pixels =
        device_image ? image_view(*device_image) : bindings::image_view(py::reinterpret_borrow<py::array>(image));
    const std::span<const Corner> rows = corner_rows(corners);
    const auto count = static_cast<py::ssize_t>(rows.size());
    std::vector<StackView> stacks;
    std::vector<Foreign> owners;
    for (const py::object& output : outputs) {
        if (auto found = foreign(output, device)) {
            stacks.push_back(stack_view(*found, count));
            owners.push_back(std::move(*found));
        } else {
            auto array = py::reinterpret_borrow<py::array>(output);
            stacks.push_back(bindings::stack_view(array, count));
        }
    }
    if (!owners.empty() && owners.size() != outputs.size()) {
        throw std::invalid_argument("all outputs must lie in one place: on the host, or on the device");
    }
    std::vector<std::uintptr_t> streams;
    const auto wait_for = [&](const Foreign& array) {
        if (array.stream != 0 && std::ranges::find(streams, array.stream) == streams.end()) {
            streams.push_back(array.stream);
        }
    };
    if (device_image) {
        wait_for(*device_image);
    }
    std::ranges::for_each(owners, wait_for); // somebody may still read what was in their memory before
    cuda::Stages times;
    const cuda::Use use{.device = device,
                        .image = device_image ? cuda::Place::device : cuda::Place::host,
                        .outputs = owners.empty() ? cuda::Place::host : cuda::Place::device,
                        .memory = memory,
                        .streams = streams,
                        .stages = stages ? &times : nullptr};
    const ExtractOptions options = extract_options(given);
    Results results(outputs.size(), count);
    const std::span<Status> status = results.status();
    const std::span<double> statistics = results.statistics();
    {
        const py::gil_scoped_release released;
        cuda::extract(pixels, rows, stacks, options, use, status, statistics);
    }
    if (stages) {
        stages->attr("update")(as_dict(times));
    }
    return results.to_python();
}

/// Bytes that copies to and from the device may use while the caller goes on.
py::array pinned(std::size_t bytes, int device) {
    auto* memory = new std::shared_ptr<cuda::Memory>;
    const py::capsule owner(memory, [](void* held) { delete static_cast<std::shared_ptr<cuda::Memory>*>(held); });
    {
        const py::gil_scoped_release released;
        *memory = given_back_alone(cuda::Memory::pinned(device, bytes));
    }
    return py::array(py::dtype::of<std::uint8_t>(), {static_cast<py::ssize_t>(bytes)}, {}, (*memory)->data(), owner);
}

py::dict survey(const std::vector<int>& closely) {
    cuda::Survey found;
    {
        const py::gil_scoped_release released;
        found = cuda::survey(closely);
    }
    py::dict described;
    described["problem"] = found.problem;
    described["runtime"] = found.runtime;
    described["driver"] = found.driver;
    described["cufft"] = found.cufft;
    py::list devices;
    for (const cuda::DeviceInfo& info : found.devices) {
        py::dict one;
        one["index"] = info.index;
        one["name"] = info.name;
        one["capability"] = info.capability;
        one["bus"] = info.bus;
        one["multiprocessors"] = info.multiprocessors;
        one["total_bytes"] = info.total_bytes;
        one["free_bytes"] = info.free_bytes;
        one["problem"] = info.problem;
        devices.append(one);
    }
    described["devices"] = devices;
    return described;
}

} // namespace
} // namespace cryobox::bindings

PYBIND11_MODULE(_cuda, module) {
    namespace py = pybind11;
    using namespace pybind11::literals;
    using namespace cryobox;
    using bindings::DeviceArray;

    module.doc() =
        "The numerical core on NVIDIA GPUs. Arguments are checked, nothing is cast; cryobox.core is its face.";
    py::class_<DeviceArray>(module, "DeviceArray", py::module_local(), "A C-contiguous array in the memory of a GPU.")
        .def_property_readonly("shape", [](const DeviceArray& array) { return py::tuple(py::cast(array.shape)); })
        .def_property_readonly("ndim", [](const DeviceArray& array) { return array.shape.size(); })
        .def_property_readonly("dtype", [](const DeviceArray& array) { return array.dtype; })
        .def_property_readonly("nbytes", &DeviceArray::bytes)
        .def_property_readonly("device",
                               [](const DeviceArray& array) { return "cuda:" + std::to_string(array.device); })
        .def_property_readonly("__cuda_array_interface__", &bindings::cuda_array_interface)
        .def("__len__", [](const DeviceArray& array) { return array.shape.empty() ? 0 : array.shape[0]; })
        .def("__dlpack_device__",
             [](const DeviceArray& array) { return std::pair(cuda::dlpack_device_type(), array.device); })
        .def("__dlpack__",
             [](const DeviceArray& array, const py::kwargs& asked) { // a stream needs nothing: our work is done
                 if (asked.contains("copy") && py::object(asked["copy"]).equal(py::bool_(true))) {
                     throw py::buffer_error("a copy is not offered: to_host() makes one on the host");
                 }
                 return bindings::dlpack::wrap(array.memory, array.memory->data(), array.shape, array.dtype,
                                               cuda::dlpack_device_type(), array.device);
             })
        .def("to_host", &bindings::to_host, "The same values as a NumPy array.")
        .def("compact", &bindings::compact, "wanted"_a.noconvert(), "The rows that are wanted, in their order.");
    module.def("extract", &bindings::extract, "image"_a, "corners"_a.noconvert(), "outputs"_a, py::kw_only(),
               "device"_a, "memory"_a, "stages"_a = py::none(),
               "Cut, crop and normalize particles into `outputs`; returns (status, statistics). The other keywords are "
               "those of bindings/options.hpp.");
    module.def("empty", &bindings::empty, "shape"_a, "dtype"_a, "device"_a, "An array whose values are undefined.");
    module.def("upload", &bindings::upload, "image"_a.noconvert(), "device"_a, "first_row"_a, "last_row"_a,
               "An image on the device; rows outside [first_row, last_row) are undefined.");
    module.def("pinned", &bindings::pinned, "count"_a, "device"_a, "Page-locked memory of the host, as uint8.");
    module.def(
        "survey", &bindings::survey, "closely"_a = std::vector<int>{},
        "What this host offers, or why it offers nothing. Never fails. A close look, at these devices or at all, "
        "takes some of their memory.");
    module.attr("most_callers") = cuda::most_callers;
    module.def(
        "release_idle",
        [](int device) {
            const py::gil_scoped_release released;
            cuda::release_idle(device);
        },
        "device"_a, "Give back the device memory that no call is using.");
}
