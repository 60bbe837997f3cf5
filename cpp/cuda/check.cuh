// Every call of CUDA and cuFFT goes through `check`, which says what was being done when one fails.
#pragma once

#include <stdexcept>
#include <string>

#include <cuda_runtime.h>
#include <cufft.h>

#include "device.hpp"

namespace cryobox::cuda {

inline void check(cudaError_t code, const char* what) {
    if (code == cudaSuccess) {
        return;
    }
    static_cast<void>(cudaGetLastError()); // a failure that was told must not be told again by the next call
    const std::string message = std::string(what) + ": " + cudaGetErrorString(code);
    if (code == cudaErrorMemoryAllocation) {
        throw OutOfMemory(message);
    }
    throw std::runtime_error(message);
}

inline void check(cufftResult code, const char* what) {
    if (code == CUFFT_SUCCESS) {
        return;
    }
    static_cast<void>(cudaGetLastError());
    if (code == CUFFT_ALLOC_FAILED) {
        throw OutOfMemory(std::string(what) + ": cuFFT could not allocate memory");
    }
    throw std::runtime_error(std::string(what) + ": cuFFT error " + std::to_string(static_cast<int>(code)));
}

/// After a launch.
inline void check_launch(const char* what) { check(cudaGetLastError(), what); }

} // namespace cryobox::cuda
