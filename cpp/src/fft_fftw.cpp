// FFTW: plans, their cache and their lock. The only file that includes fftw3.h.
#include "cryobox/fft.hpp"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include <fftw3.h>

#include "cryobox/buffer.hpp"

namespace cryobox {

namespace {

// Leaked on purpose: plans may be used, and freed, by threads that outlive every static.
std::mutex& planner_mutex() {
    static auto& mutex = *new std::mutex;
    return mutex;
}

fftwf_complex* raw(Complex* pointer) noexcept {
    return reinterpret_cast<fftwf_complex*>(pointer); // FFTW documents that the two have one layout
}

fftwf_plan make_plan(Index length, Direction direction) {
    const Buffer<Complex> from(length);
    const Buffer<Complex> to(length);
    const int sign = direction == Direction::forward ? FFTW_FORWARD : FFTW_BACKWARD;
    const std::scoped_lock lock(planner_mutex());
    // ESTIMATE, because a measured plan may differ from run to run, and with it the last bits of the images.
    fftwf_plan plan = fftwf_plan_dft_1d(static_cast<int>(length), raw(from.data()), raw(to.data()), sign,
                                        FFTW_ESTIMATE | FFTW_DESTROY_INPUT);
    if (plan == nullptr) {
        throw std::runtime_error("FFTW could not plan a transform of " + std::to_string(length) + " points");
    }
    return plan;
}

class PlanCache {
public:
    static PlanCache& instance() {
        static auto& cache = *new PlanCache; // leaked, as the mutex is
        return cache;
    }

    const Transform& get(Index length, Direction direction) {
        const std::pair key{length, direction};
        const std::scoped_lock lock(mutex_);
        const auto found = plans_.find(key);
        // std::map never moves its entries, and none is ever removed.
        return found != plans_.end() ? found->second : plans_.try_emplace(key, length, direction).first->second;
    }

private:
    std::mutex mutex_;
    std::map<std::pair<Index, Direction>, const Transform> plans_;
};

} // namespace

void Transform::Destroy::operator()(fftwf_plan_s* plan) const noexcept {
    const std::scoped_lock lock(planner_mutex());
    fftwf_destroy_plan(plan);
}

Transform::Transform(Index length, Direction direction) : length_(length), plan_(make_plan(length, direction)) {}

void Transform::operator()(Complex* from, Complex* to) const noexcept {
    fftwf_execute_dft(plan_.get(), raw(from), raw(to));
}

const Transform& transform(Index length, Direction direction) { return PlanCache::instance().get(length, direction); }

std::string_view fftw_version() noexcept { return static_cast<const char*>(fftwf_version); }

} // namespace cryobox
