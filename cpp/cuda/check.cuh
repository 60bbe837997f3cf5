// Every call of CUDA and cuFFT goes through `check`, which says what was being done when one fails, or `forget`.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include <cuda_runtime.h>
#include <cufft.h>

#include "device.hpp"

namespace cryobox::cuda {

/// Where nobody can be told of a failure. CUDA keeps the last one for the thread; it must not be found later, when the
/// thread speaks to a device that works.
inline void forget(cudaError_t code) noexcept {
    if (code != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
    }
}

inline void check(cudaError_t code, const char* what) {
    if (code == cudaSuccess) {
        return;
    }
    forget(code);
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
    if (code == CUFFT_ALLOC_FAILED) {
        throw OutOfMemory(std::string(what) + ": cuFFT could not allocate memory");
    }
    throw std::runtime_error(std::string(what) + ": cuFFT error " + std::to_string(static_cast<int>(code)));
}

inline constexpr std::size_t little_memory = std::size_t{512} << 20U; ///< more than any plan's tables and code take

/// While planning cuFFT also says "internal error" where memory runs out: it is that only where little is left.
inline void check_plan(cufftResult code, const char* what) {
    if (code == CUFFT_INTERNAL_ERROR) {
        std::size_t free = 0;
        std::size_t total = 0;
        forget(cudaMemGetInfo(&free, &total));
        if (free < little_memory) {
            throw OutOfMemory(std::string(what) + ": cuFFT's internal error, as where memory runs out");
        }
    }
    check(code, what);
}

} // namespace cryobox::cuda
