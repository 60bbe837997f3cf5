// The options of a call: each keyword is named here, once, for every backend.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
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

inline ExtractOptions extract_options(const py::kwargs& given) {
    Keywords keywords(given);
    ExtractOptions options;
    options.box = keywords.take<Index>("box");
    options.pad = keywords.take<bool>("pad");
    options.steps.normalize = keywords.take<bool>("normalize");
    options.steps.ramp = keywords.take<bool>("ramp");
    options.steps.invert = keywords.take<bool>("invert");
    options.steps.scale_const = keywords.take<std::optional<double>>("scale_const").value_or(0.0);
    options.radii = keywords.take<std::vector<double>>("radii");
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
