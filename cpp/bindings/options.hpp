// The options of a call: each keyword is named here, once, for every backend.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cryobox/extract.hpp"
#include "cryobox/rules.hpp"

namespace cryobox::bindings {

namespace py = pybind11;

/// The keywords of a call, taken one by one; none may be missing, none may be left.
class Keywords {
public:
    explicit Keywords(const py::kwargs& given) : given_(given) {}

    template <class T>
    T take(const char* name) {
        if (!given_.contains(name)) {
            throw py::type_error(std::string("missing the keyword argument ") + name);
        }
        ++taken_;
        try {
            return given_[name].cast<T>();
        } catch (const py::cast_error&) {
            throw py::type_error(std::string(name) + ": incompatible with this option; got " +
                                 py::repr(given_[name]).cast<std::string>());
        }
    }

    void end() const {
        if (taken_ != given_.size()) {
            throw py::type_error("unexpected keyword arguments; got " + py::str(py::list(given_)).cast<std::string>());
        }
    }

private:
    const py::kwargs& given_;
    std::size_t taken_ = 0;
};

template <class Value, class Number>
constexpr py::ssize_t numbers_in() noexcept {
    if constexpr (std::is_same_v<Value, Number>) {
        return 1;
    } else {
        return static_cast<py::ssize_t>(sizeof(Value) / sizeof(Number));
    }
}

/// An array of numbers as values of so many each; None: no values.
template <class Value, class Number>
std::vector<Value> rows_of(Keywords& keywords, const char* name) {
    using Array = py::array_t<Number, py::array::c_style>;
    const auto given = keywords.take<std::optional<Array>>(name);
    if (!given) {
        return {};
    }
    constexpr py::ssize_t numbers = numbers_in<Value, Number>();
    if (given->size() % numbers != 0) {
        throw std::invalid_argument(std::string(name) + " must have " + std::to_string(numbers) + " numbers each");
    }
    std::vector<Value> values(static_cast<std::size_t>(given->size() / numbers));
    std::memcpy(static_cast<void*>(values.data()), given->data(), static_cast<std::size_t>(given->nbytes()));
    return values;
}

/// Numbers of every window in rows of `columns`; they live as long as the keywords. None: nothing.
inline std::span<const double> numbers_of_windows(const py::object& given, const char* name, py::ssize_t columns) {
    if (given.is_none()) {
        return {};
    }
    const auto array = py::reinterpret_borrow<py::array>(given);
    if (!py::isinstance<py::array_t<double, py::array::c_style>>(given) || array.ndim() != 2 ||
        array.shape(1) != columns) {
        throw std::invalid_argument(std::string(name) + " must be float64, C-contiguous, with the shape (n, " +
                                    std::to_string(columns) + ")");
    }
    return {static_cast<const double*>(array.data()), static_cast<std::size_t>(array.size())};
}

/// Where the factor of a coefficient rises and falls; None: nowhere.
inline void set_filter(Spectral& spectral, const std::optional<std::array<double, 4>>& edges) {
    if (edges.has_value()) {
        spectral.filtered = true;
        spectral.filter = {
            .rise_begin = (*edges)[0], .rise_end = (*edges)[1], .fall_begin = (*edges)[2], .fall_end = (*edges)[3]};
    }
}

/// The CTF of every window, and what is done with it.
inline void set_ctf(Spectral& spectral, Keywords& keywords) {
    const auto table = keywords.take<py::object>("ctf");
    if (!table.is_none()) {
        spectral.ctf_row = py::reinterpret_borrow<py::array>(table).ndim() == 2
                               ? py::reinterpret_borrow<py::array>(table).shape(1)
                               : static_cast<py::ssize_t>(ctf_numbers);
    }
    spectral.ctf = numbers_of_windows(table, "ctf", spectral.ctf_row);
    spectral.ctf_use = static_cast<CtfUse>(keywords.take<std::uint8_t>("ctf_use"));
    spectral.ctf_window = keywords.take<Index>("ctf_window");
    spectral.intact_first_peak = keywords.take<bool>("intact_first_peak");
    spectral.pixel_size = keywords.take<double>("pixel_size");
    spectral.fill = keywords.take<double>("fill");
}

inline ExtractOptions extract_options(const py::kwargs& given) {
    Keywords keywords(given);
    ExtractOptions options;
    options.box = keywords.take<Index>("box");
    options.pad = keywords.take<bool>("pad");
    options.steps.normalize = keywords.take<bool>("normalize");
    options.steps.ramp = keywords.take<bool>("ramp");
    options.steps.invert = keywords.take<bool>("invert");
    options.steps.scale_const = keywords.take<std::optional<double>>("scale_const").value_or(0.0);
    options.spectral.residual = numbers_of_windows(keywords.take<py::object>("residual"), "residual", 2);
    set_filter(options.spectral, keywords.take<std::optional<std::array<double, 4>>>("filter"));
    set_ctf(options.spectral, keywords);
    options.radii = keywords.take<std::vector<double>>("radii");
    options.steps.white_dust = keywords.take<std::optional<double>>("white_dust").value_or(0.0);
    options.steps.black_dust = keywords.take<std::optional<double>>("black_dust").value_or(0.0);
    options.steps.measures = keywords.take<bool>("measures");
    options.axes = rows_of<Axis, double>(keywords, "axes");
    options.neighbors = rows_of<Position, double>(keywords, "neighbors");
    options.noise = rows_of<std::uint64_t, std::uint64_t>(keywords, "noise");
    options.threads = keywords.take<int>("threads");
    keywords.end();
    return options;
}

/// What `extract` returns, while it is filled: a status for every corner, a row of numbers for every output and corner.
class Results {
public:
    Results(std::size_t outputs, py::ssize_t corners)
        : status_(corners),
          statistics_(std::vector<py::ssize_t>{static_cast<py::ssize_t>(outputs), corners, statistics_count}) {}

    [[nodiscard]] std::span<Status> status() {
        return {reinterpret_cast<Status*>(status_.mutable_data()), static_cast<std::size_t>(status_.size())};
    }
    [[nodiscard]] std::span<double> statistics() {
        return {statistics_.mutable_data(), static_cast<std::size_t>(statistics_.size())};
    }
    [[nodiscard]] py::tuple to_python() const { return py::make_tuple(status_, statistics_); }

private:
    py::array_t<std::uint8_t> status_;
    py::array_t<double> statistics_;
};

} // namespace cryobox::bindings
