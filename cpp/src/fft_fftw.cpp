// FFTW: plans, their cache and their lock. The only file that includes fftw3.h.
#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include <fftw3.h>

#include "cryobox/buffer.hpp"
#include "cryobox/fft.hpp"

namespace cryobox {

namespace {

// Leaked on purpose: plans may be used, and freed, by threads that outlive every static.
std::mutex& planner_mutex() noexcept {
    static auto& mutex = *new std::mutex;
    return mutex;
}

// ESTIMATE, because a measured plan may differ from run to run, and with it the last bits of the images.
constexpr unsigned plan_flags = FFTW_ESTIMATE | FFTW_DESTROY_INPUT;

fftwf_complex* raw(Complex* pointer) noexcept {
    return reinterpret_cast<fftwf_complex*>(pointer); // documented as layout-compatible by both sides
}

PlanHandle checked(fftwf_plan plan, const char* what, Index size) {
    if (plan == nullptr) {
        throw std::runtime_error(std::string("FFTW could not plan the ") + what + " of " + std::to_string(size) +
                                 " points");
    }
    return PlanHandle(plan);
}

PlanHandle plan_rows(Index box, Index batch) {
    const Buffer<float> in(batch * box);
    const Buffer<Complex> out(batch * (box / 2 + 1));
    const int n = static_cast<int>(box);
    const int half = static_cast<int>(box / 2 + 1);
    const std::lock_guard lock(planner_mutex());
    return checked(fftwf_plan_many_dft_r2c(1, &n, static_cast<int>(batch), in.data(), nullptr, 1, n, raw(out.data()),
                                           nullptr, 1, half, plan_flags),
                   "row transform", box);
}

PlanHandle plan_columns(Index box, Index columns) {
    const Buffer<Complex> data(box * columns);
    const int n = static_cast<int>(box);
    const int count = static_cast<int>(columns);
    const std::lock_guard lock(planner_mutex());
    return checked(fftwf_plan_many_dft(1, &n, count, raw(data.data()), nullptr, count, 1, raw(data.data()), nullptr,
                                       count, 1, FFTW_FORWARD, plan_flags),
                   "column transform", box);
}

PlanHandle plan_inverse(Index size) {
    const Buffer<Complex> in(size * (size / 2 + 1));
    const Buffer<float> out(size * size);
    const int n = static_cast<int>(size);
    const std::lock_guard lock(planner_mutex());
    return checked(fftwf_plan_dft_c2r_2d(n, n, raw(in.data()), out.data(), plan_flags), "inverse transform", size);
}

/// Plans by size. Entries are never removed; std::map keeps their addresses.
template <class Key, class Plan>
class PlanCache {
  public:
    template <class... Arguments>
    const Plan& get(const Key& key, Arguments... arguments) {
        {
            const std::lock_guard lock(mutex_);
            if (const auto found = plans_.find(key); found != plans_.end()) {
                return *found->second;
            }
        }
        // Planned without this cache's lock; where two threads plan the same, the first one's is kept.
        auto plan = std::make_unique<const Plan>(arguments...);
        const std::lock_guard lock(mutex_);
        return *plans_.try_emplace(key, std::move(plan)).first->second;
    }

  private:
    std::mutex mutex_;
    std::map<Key, std::unique_ptr<const Plan>> plans_;
};

} // namespace

void PlanDeleter::operator()(fftwf_plan_s* plan) const noexcept {
    const std::lock_guard lock(planner_mutex());
    fftwf_destroy_plan(plan);
}

ForwardPlan::ForwardPlan(Index box, Index columns)
    : box_(box), columns_(columns), batch_(std::min<Index>(box, 8)), // 8 rows in and out stay in L1 for common boxes
      rows_(plan_rows(box, batch_)), columns_plan_(plan_columns(box, columns)) {}

void ForwardPlan::transform_rows(float* from, Complex* to) const noexcept {
    fftwf_execute_dft_r2c(rows_.get(), from, raw(to));
}

void ForwardPlan::transform_columns(Complex* spectrum) const noexcept {
    fftwf_execute_dft(columns_plan_.get(), raw(spectrum), raw(spectrum));
}

InversePlan::InversePlan(Index size) : size_(size), plan_(plan_inverse(size)) {}

void InversePlan::transform(Complex* spectrum, float* image) const noexcept {
    fftwf_execute_dft_c2r(plan_.get(), raw(spectrum), image);
}

const ForwardPlan& forward_plan(Index box, Index columns) {
    static auto& cache = *new PlanCache<std::pair<Index, Index>, ForwardPlan>; // leaked, as the mutex is
    return cache.get({box, columns}, box, columns);
}

const InversePlan& inverse_plan(Index size) {
    static auto& cache = *new PlanCache<Index, InversePlan>;
    return cache.get(size, size);
}

std::string_view fftw_version() noexcept { return fftwf_version; }

} // namespace cryobox
