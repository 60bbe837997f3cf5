// What the C++ tests share: a check that says where and what, and pixels that look like a micrograph's.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <string>
#include <vector>

namespace cryobox::testing {

inline int& failures() {
    static int count = 0;
    return count;
}

inline void check(bool good, const char* what, const char* file, int line) {
    if (!good) {
        ++failures();
        std::fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
    }
}

/// Whether `work` throws an `Error` whose text contains `part`.
template <class Error, class Work>
bool throws(const Work& work, const std::string& part) {
    try {
        work();
    } catch (const Error& error) {
        return std::string(error.what()).find(part) != std::string::npos;
    }
    return false;
}

inline std::vector<float> noise(std::size_t count, float mean, float sd, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(mean, sd);
    std::vector<float> pixels(count);
    for (float& pixel : pixels) {
        pixel = normal(generator);
    }
    return pixels;
}

/// Runs the tests of a program; its exit status.
template <class... Tests>
int run(const Tests&... tests) {
    try {
        (tests(), ...);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "unexpected exception: %s\n", error.what());
        return EXIT_FAILURE;
    }
    return failures() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

} // namespace cryobox::testing

#define CHECK(condition) cryobox::testing::check(static_cast<bool>(condition), #condition, __FILE__, __LINE__)
