// cryobox._core: the CPU core for Python. Arrays become views, the interpreter is let go around one call.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <pybind11/stl.h>

#include "cryobox/extract.hpp"
#include "cryobox/fft.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/repair.hpp"
#include "ndarray.hpp"
#include "options.hpp"

namespace cryobox::bindings {
namespace {

py::tuple extract(const py::array& image, const py::array& corners, std::vector<py::array> outputs,
                  const py::kwargs& given) {
    const ImageView pixels = image_view(image);
    const std::span<const Corner> rows = corner_rows(corners);
    const auto count = static_cast<py::ssize_t>(rows.size());
    std::vector<StackView> stacks;
    stacks.reserve(outputs.size());
    for (py::array& output : outputs) {
        stacks.push_back(stack_view(output, count));
    }
    const ExtractOptions options = extract_options(given);
    Results results(outputs.size(), count);
    const std::span<Status> status = results.status();
    const std::span<double> statistics = results.statistics();
    {
        const py::gil_scoped_release released;
        cryobox::extract(pixels, rows, stacks, options, status, statistics);
    }
    return results.to_python();
}

double mean(const py::array& image) {
    const ImageView pixels = image_view(image);
    const py::gil_scoped_release released;
    return cryobox::mean_of(pixels);
}

void fourier_crop(const py::array& images, py::array output, int threads) {
    if (images.ndim() != 3 || images.shape(1) != images.shape(2) || images.dtype().kind() != 'f' ||
        images.itemsize() != 4) {
        throw std::invalid_argument("images must be float32 with the shape (n, side, side)");
    }
    require_plain(images, "images");
    const StackView stack = stack_view(output, images.shape(0));
    if (stack.float32 == nullptr) {
        throw std::invalid_argument("the output must be float32");
    }
    const auto* from = static_cast<const float*>(images.data());
    const Index count = images.shape(0);
    const Index box = images.shape(1);
    const py::gil_scoped_release released;
    cryobox::fourier_crop(from, count, box, stack.float32, stack.size, threads);
}

Index repair_hot_pixels(py::array image, double threshold, std::uint64_t seed) {
    const ImageView pixels = image_view(image);
    auto* bytes = static_cast<std::byte*>(image.mutable_data());
    const py::gil_scoped_release released;
    return cryobox::repair_hot_pixels(pixels, bytes, threshold, seed);
}

} // namespace
} // namespace cryobox::bindings

PYBIND11_MODULE(_core, module) {
    namespace py = pybind11;
    using namespace pybind11::literals;
    using namespace cryobox;

    module.doc() = "The numerical core on the CPU. Arguments are checked, nothing is cast; cryobox.core is its face.";
    module.def(
        "extract", &bindings::extract, "image"_a.noconvert(), "corners"_a.noconvert(), "outputs"_a.noconvert(),
        "Cut, crop and normalize particles into `outputs`; returns (status, statistics). The keywords are those of "
        "bindings/options.hpp.");
    module.def("mean", &bindings::mean, "image"_a.noconvert(), "Mean of all pixels, summed in double.");
    module.def("fourier_crop", &bindings::fourier_crop, "images"_a.noconvert(), "output"_a.noconvert(), py::kw_only(),
               "threads"_a, "Crop square images in Fourier space, gray levels kept.");
    module.def("repair_hot_pixels", &bindings::repair_hot_pixels, "image"_a.noconvert(), py::kw_only(), "threshold"_a,
               "seed"_a, "Replace hot pixels of a micrograph in place; returns how many there were.");
    module.def("fftw_version", [] { return std::string(fftw_version()); }, "The FFTW library that is loaded.");
    module.attr("openmp") = has_openmp();
    module.attr("simd") = std::string(kernels().name);
    module.attr("max_threads") = max_threads();
}
