// One particle after the other: window, mean, spectrum, crop, normalize, cast.
#include "cryobox/extract.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "cryobox/arguments.hpp"
#include "ctf.hpp"
#include "finish.hpp"
#include "own_background.hpp"
#include "plan.hpp"
#include "spectrum.hpp"
#include "window.hpp"
#include "workspace.hpp"

namespace cryobox {

namespace {

/// Runs `work(i, workspace)` for i = 0 ... count - 1. `work` must not throw. One thread enters no OpenMP region, so
/// that callers with threads of their own never start a team each.
template <class Work>
void for_each(Index count, const Workspaces& workspaces, const Work& work) noexcept {
    static_assert(noexcept(work(Index{}, std::declval<Workspace&>())));
#ifdef _OPENMP
    if (workspaces.count() > 1) {
        // A thread takes a run of neighbors, since they share pixels and the one asks for the other's ahead; runs are
        // short enough that every thread gets several.
        constexpr Index longest = 8;
        constexpr Index runs_each = 8;
        const Index run = std::clamp<Index>(count / (runs_each * workspaces.count()), 1, longest);
#pragma omp parallel num_threads(workspaces.count())
        {
            Workspace& workspace = workspaces[omp_get_thread_num()];
#pragma omp for schedule(dynamic, run)
            for (Index i = 0; i < count; ++i) {
                work(i, workspace);
            }
        }
        return;
    }
#endif
    for (Index i = 0; i < count; ++i) {
        work(i, workspaces[0]);
    }
}

int threads_for(Index count, int threads) {
    if (threads < 1) {
        throw std::invalid_argument("threads must be at least 1");
    }
    if (!has_openmp()) {
        return 1;
    }
    constexpr Index most_threads = 1024; // a team larger than this is a mistake that OpenMP would die of
    return static_cast<int>(std::clamp<Index>(std::min<Index>(threads, count), 1, most_threads));
}

/// The order in which windows are cut: from the top down, so that what neighbors share is still in the cache.
std::vector<Index> in_reading_order(std::span<const Corner> corners) {
    std::vector<Index> order(corners.size());
    std::iota(order.begin(), order.end(), Index{0});
    std::ranges::sort(order, [&](Index a, Index b) {
        const Corner& first = corners[static_cast<std::size_t>(a)];
        const Corner& second = corners[static_cast<std::size_t>(b)];
        return std::tie(first.y, first.x, a) < std::tie(second.y, second.x, b);
    });
    return order;
}

/// Means that were taken out of a window, and of what is left of them after its way through Fourier space.
struct Means {
    double window = 0;
    double spectrum = 0;
    bool treated = false; ///< the CTF was applied apart
};

Means spectrum_of_window(const Plan& plan, const Window& window, Index n, Workspace& workspace, Ahead& ahead) noexcept {
    const bool taken = plan.outputs.front().backward == nullptr; // the only output that can be the window itself
    const double sum = taken ? window.take(plan.kernels, workspace.image.data()) : window.sum(plan.kernels);
    const double mean = sum / (static_cast<double>(plan.box) * static_cast<double>(plan.box));
    if (!std::isfinite(mean) || plan.forward == nullptr) {
        return {.window = mean, .spectrum = mean};
    }
    return {.window = mean, .spectrum = crop_columns(plan, window, mean, n, workspace, ahead)};
}

Means spectrum_after_ctf(const Plan& plan, const ImageView& image, Corner corner, Index n, Workspace& workspace,
                         Ahead& ahead) noexcept {
    const double mean = apply_ctf_apart(plan, image, corner, n, workspace);
    const bool again = plan.options.spectral.moves() || plan.outputs.back().stack.size < plan.box;
    const bool finite = std::isfinite(mean);
    return {.window = mean,
            .spectrum = finite && again ? crop_treated(plan, mean, n, workspace, ahead) : mean,
            .treated = true};
}

bool may_be_cut(const ImageView& image, Corner corner, Index box, bool pad) noexcept {
    return cryobox::may_be_cut(corner.y, corner.x, box, image.height, image.width, pad);
}

} // namespace

bool has_openmp() noexcept {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

int max_threads() noexcept {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

void extract(const ImageView& image, std::span<const Corner> corners, std::span<const StackView> outputs,
             const ExtractOptions& options, std::span<Status> status, std::span<double> statistics) {
    check_image(image);
    check_arguments(corners, outputs, options, status, statistics);

    // Backgrounds first: a wrong radius is refused even where no corner is inside.
    std::vector<Background> backgrounds;
    backgrounds.reserve(outputs.size());
    for (std::size_t k = 0; options.steps.normalize && k < outputs.size(); ++k) {
        if (options.axes.empty()) {
            backgrounds.emplace_back(outputs[k].size, options.radii[k]);
        } else { // each window has its own
            check_tube_radius(outputs[k].size, options.radii[k]);
        }
    }
    const int threads = threads_for(static_cast<Index>(corners.size()), options.threads);
    Plan plan(options, outputs, backgrounds);
    // Where no box may be cut, however large, nothing is planned.
    const Workspaces workspaces(threads);
    if (std::ranges::any_of(corners,
                            [&](Corner corner) { return may_be_cut(image, corner, options.box, options.pad); })) {
        plan.prepare();
        plan.neighbors = most_neighbors(plan, corners);
        for (int i = 0; i < threads; ++i) {
            plan.make_room(workspaces[i]);
        }
    }

    const auto count = static_cast<Index>(corners.size());
    const std::vector<Index> order = in_reading_order(corners);
    const auto extract_one = [&](Index n, Workspace& workspace, Ahead& ahead) noexcept {
        const Corner corner = corners[static_cast<std::size_t>(n)];
        if (!may_be_cut(image, corner, plan.box, options.pad)) {
            return Status::outside;
        }
        const Means means = plan.ctf_apart(image, corner)
                                ? spectrum_after_ctf(plan, image, corner, n, workspace, ahead)
                                : spectrum_of_window(plan, Window(image, corner, plan.box), n, workspace, ahead);
        if (!std::isfinite(means.window)) {
            return Status::not_finite;
        }
        const double of_window =
            plan.steps.measures ? Window(image, corner, plan.box).saturated(plan.kernels, workspace.rows.data()) : 0;
        Status result = Status::ok;
        for (std::size_t k = 0; k < plan.outputs.size() && result == Status::ok; ++k) {
            const OutputPlan& output = plan.outputs[k];
            const bool transformed = output.backward != nullptr;
            if (transformed && means.treated && output.stack.size == plan.box && !plan.options.spectral.moves()) {
                std::copy_n(workspace.treated.data(), plan.box * plan.box, workspace.image.data());
            } else if (transformed) {
                make_image(plan, output, workspace, ahead);
            }
            const double mean = transformed ? means.spectrum : means.window;
            double* row = statistics.data() + (static_cast<Index>(k) * count + n) * statistics_count;
            result = finish_image(plan, output, mean, n, corner, workspace, ahead, row);
            if (plan.steps.measures && k == 0 && result == Status::ok) {
                row[saturated] = of_window;
            }
        }
        return result;
    };
    for_each(count, workspaces, [&](Index i, Workspace& workspace) noexcept {
        const Index n = order[static_cast<std::size_t>(i)];
        const Corner* following =
            i + 1 < count ? &corners[static_cast<std::size_t>(order[static_cast<std::size_t>(i + 1)])] : nullptr;
        const bool more = following != nullptr && may_be_cut(image, *following, plan.box, options.pad);
        const Window next(image, more ? *following : Corner{}, plan.box);
        Ahead ahead = more ? next.ahead(plan.fetches) : Ahead();
        const Status result = extract_one(n, workspace, ahead);
        status[static_cast<std::size_t>(n)] = result;
        if (result != Status::ok) {
            for (std::size_t k = 0; k < outputs.size(); ++k) {
                clear(outputs[k], n);
                std::fill_n(statistics.data() + (static_cast<Index>(k) * count + n) * statistics_count,
                            static_cast<Index>(statistics_count), 0.0);
            }
        }
    });
}

double mean_of(const ImageView& image) {
    check_image(image);
    require(image.height > 0 && image.width > 0, "the image has no pixels");
    return kernels().sum(image) / (static_cast<double>(image.height) * static_cast<double>(image.width));
}

void fourier_crop(const float* images, Index count, Index box, float* output, Index size, int threads) {
    check_box("images must have an even side, at least 2 and at most 32768", box, largest_box);
    check_box("size must be an even number of pixels, at least 2 and at most the images' side", size, box);
    require(count >= 0, "the number of images is negative");
    const int team = threads_for(count, threads);
    if (count == 0) {
        return;
    }
    if (size == box) {
        std::memcpy(output, images, static_cast<std::size_t>(count * box * box) * sizeof(float));
        return;
    }
    const StackView stack{.float32 = output, .float16 = nullptr, .size = size};
    ExtractOptions options;
    options.box = box;
    options.steps.normalize = false;
    Plan plan(options, {&stack, 1}, {});
    plan.prepare();
    const Workspaces workspaces(team);
    for (int i = 0; i < team; ++i) {
        plan.make_room(workspaces[i]);
    }
    for_each(count, workspaces, [&](Index n, Workspace& workspace) noexcept {
        const ImageView image{.data = reinterpret_cast<const std::byte*>(images + n * box * box),
                              .height = box,
                              .width = box,
                              .row_stride = box * static_cast<Index>(sizeof(float)),
                              .type = PixelType::float32,
                              .swapped = false};
        const Window window(image, Corner{}, box);
        const double level = window.sum(plan.kernels) / (static_cast<double>(box) * static_cast<double>(box));
        Ahead nothing;
        crop_columns(plan, window, level, n, workspace, nothing);
        make_image(plan, plan.outputs.front(), workspace, nothing);
        const Finishing how = restored(plan.steps, true, level);
        plan.kernels.finish(workspace.image.data(), size, how.finish, output + n * size * size, nullptr,
                            Beside{.by_column = workspace.by_column.data(), .ahead = nothing});
    });
}

} // namespace cryobox
