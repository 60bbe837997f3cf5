// NumPy arrays as views, checked: what the bindings of every backend accept. Nothing is copied or cast.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "cryobox/image.hpp"
#include "cryobox/rules.hpp"

namespace cryobox::bindings {

namespace py = pybind11;

inline bool is_swapped(const py::dtype& type) {
    const char order = type.byteorder(); // '=' native, '|' irrelevant, else '<' or '>'
    return order == (std::endian::native == std::endian::little ? '>' : '<');
}

inline PixelType pixel_type(const py::dtype& type) {
    const auto size = type.itemsize();
    switch (type.kind()) {
    case 'i':
        if (size == 1) {
            return PixelType::int8;
        }
        if (size == 2) {
            return PixelType::int16;
        }
        break;
    case 'u':
        if (size == 1) {
            return PixelType::uint8;
        }
        if (size == 2) {
            return PixelType::uint16;
        }
        break;
    case 'f':
        if (size == 2) {
            return PixelType::float16;
        }
        if (size == 4) {
            return PixelType::float32;
        }
        break;
    default:
        break;
    }
    throw std::invalid_argument("image must be int8, uint8, int16, uint16, float16 or float32; got " +
                                py::str(type).cast<std::string>());
}

/// A 2-D array whose rows may be padded, but go downward, and whose pixels are adjacent.
inline ImageView image_view(const py::array& image) {
    if (image.ndim() != 2) {
        throw std::invalid_argument("image must have 2 dimensions; got " + std::to_string(image.ndim()));
    }
    const ImageView view{.data = static_cast<const std::byte*>(image.data()),
                         .height = image.shape(0),
                         .width = image.shape(1),
                         .row_stride = image.strides(0),
                         .type = pixel_type(image.dtype()),
                         .swapped = is_swapped(image.dtype())};
    // The strides of an image without pixels, and of an axis with one, say nothing.
    if (view.height == 0 || view.width == 0) {
        return view;
    }
    if (view.width > 1 && image.strides(1) != image.itemsize()) {
        throw std::invalid_argument("pixels of the image's rows must be adjacent");
    }
    if (view.height > 1 && view.row_stride < view.width * image.itemsize()) {
        throw std::invalid_argument("rows of the image must not overlap, and must follow each other downward");
    }
    return view;
}

inline bool is_c_contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

/// Requires native byte order, alignment and the C layout: the only form that memory of the caller is written in.
inline void require_plain(const py::array& array, const char* name) {
    if (!is_c_contiguous(array) || is_swapped(array.dtype()) ||
        (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
        throw std::invalid_argument(std::string(name) + " must be C-contiguous, aligned and in native byte order");
    }
}

static_assert(sizeof(Corner) == 2 * sizeof(std::int64_t) && sizeof(Status) == 1, "rows of NumPy arrays");

inline std::span<const Corner> corner_rows(const py::array& corners) {
    if (corners.ndim() != 2 || corners.shape(1) != 2 || corners.dtype().kind() != 'i' || corners.itemsize() != 8) {
        throw std::invalid_argument("corners must be int64 with the shape (n, 2)");
    }
    require_plain(corners, "corners");
    return {static_cast<const Corner*>(corners.data()), static_cast<std::size_t>(corners.shape(0))};
}

/// A writable (n, m, m) array of float32 or float16.
inline StackView stack_view(py::array& stack, py::ssize_t count) {
    if (stack.ndim() != 3 || stack.shape(0) != count || stack.shape(1) != stack.shape(2)) {
        throw std::invalid_argument("every output must have the shape (number of corners, size, size)");
    }
    require_plain(stack, "every output");
    if (!stack.writeable()) {
        throw std::invalid_argument("every output must be writable");
    }
    StackView view{.float32 = nullptr, .float16 = nullptr, .size = stack.shape(1)};
    if (stack.dtype().kind() == 'f' && stack.itemsize() == 4) {
        view.float32 = static_cast<float*>(stack.mutable_data());
    } else if (stack.dtype().kind() == 'f' && stack.itemsize() == 2) {
        view.float16 = static_cast<Half*>(stack.mutable_data());
    } else {
        throw std::invalid_argument("every output must be float32 or float16");
    }
    return view;
}

} // namespace cryobox::bindings
