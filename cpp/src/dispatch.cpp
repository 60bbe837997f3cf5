// Chooses, once, the build of the kernels that this processor runs fastest.
#include <array>
#include <span>

#include "cryobox/kernels.hpp"

#ifdef CRYOBOX_HAVE_X86_BUILDS
#include <cpuid.h>
#endif

namespace cryobox {

namespace baseline {
extern const Kernels kernels;
}
#ifdef CRYOBOX_HAVE_X86_BUILDS
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

namespace {

struct Builds {
    std::array<const Kernels*, 3> list{};
    std::size_t count = 0;
};

#ifdef CRYOBOX_HAVE_X86_BUILDS
bool has_f16c() noexcept { // by hand, since not every compiler lets __builtin_cpu_supports ask for it
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

Builds find_builds() noexcept {
    Builds builds;
    builds.list[builds.count++] = &baseline::kernels;
#ifdef CRYOBOX_HAVE_X86_BUILDS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && has_f16c()) {
        builds.list[builds.count++] = &avx2::kernels;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
            builds.list[builds.count++] = &avx512::kernels;
        }
    }
#endif
    return builds;
}

const Builds& builds() noexcept {
    static const Builds found = find_builds();
    return found;
}

} // namespace

const Kernels& kernels() noexcept { return *builds().list[builds().count - 1]; }

std::span<const Kernels* const> runnable_kernels() noexcept { return {builds().list.data(), builds().count}; }

} // namespace cryobox
