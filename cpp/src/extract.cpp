// One particle after the other: window, mean, transform, crop, normalize, cast.
#include "cryobox/extract.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <tuple>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "cryobox/arguments.hpp"
#include "cryobox/buffer.hpp"
#include "cryobox/crop.hpp"
#include "cryobox/fft.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/normalize.hpp"

namespace cryobox {

namespace {

/// What one worker writes on: made once, grown to the largest plan it met, reused by later calls.
struct Workspace {
    Buffer<float> rows;       // two rows of the window
    Buffer<Complex> before;   // what a transform reads
    Buffer<Complex> after;    // what it writes
    Buffer<Complex> columns;  // the kept columns of the window's transform
    Buffer<Complex> cropped;  // the columns of every output, transformed back
    Buffer<float> image;      // an output before it is finished
    Buffer<double> by_column; // what a pass over it tabulates

    [[nodiscard]] Index bytes() const noexcept {
        return rows.bytes() + before.bytes() + after.bytes() + columns.bytes() + cropped.bytes() + image.bytes() +
               by_column.bytes();
    }
};

/// Workspaces between two calls. Leaked on purpose: a thread may return one after every static is gone.
class WorkspacePool {
public:
    static WorkspacePool& instance() {
        static auto& pool = *new WorkspacePool;
        return pool;
    }

    std::unique_ptr<Workspace> take() {
        const std::scoped_lock lock(mutex_);
        if (free_.empty()) {
            return std::make_unique<Workspace>();
        }
        auto workspace = std::move(free_.back());
        free_.pop_back();
        return workspace;
    }

    void give_back(std::unique_ptr<Workspace> workspace) noexcept {
        constexpr Index worth_keeping = Index{64} << 20U; // bytes; a box of 2000 needs half of it
        const std::scoped_lock lock(mutex_);
        // Room was reserved below, so this cannot throw.
        if (workspace->bytes() <= worth_keeping && free_.size() < free_.capacity()) {
            free_.push_back(std::move(workspace));
        }
    }

private:
    WorkspacePool() { free_.reserve(256); }

    std::mutex mutex_;
    std::vector<std::unique_ptr<Workspace>> free_;
};

/// The workspaces of one call, one per thread.
class Workspaces {
public:
    explicit Workspaces(int count) {
        list_.reserve(static_cast<std::size_t>(count));
        for (int i = 0; i < count; ++i) {
            list_.push_back(WorkspacePool::instance().take());
        }
    }
    Workspaces(const Workspaces&) = delete;
    Workspaces& operator=(const Workspaces&) = delete;
    Workspaces(Workspaces&&) = delete;
    Workspaces& operator=(Workspaces&&) = delete;
    ~Workspaces() {
        for (auto& workspace : list_) {
            WorkspacePool::instance().give_back(std::move(workspace));
        }
    }

    [[nodiscard]] Workspace& operator[](int i) const noexcept { return *list_[static_cast<std::size_t>(i)]; }
    [[nodiscard]] int count() const noexcept { return static_cast<int>(list_.size()); }

private:
    std::vector<std::unique_ptr<Workspace>> list_;
};

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

/// A box inside or across the border of an image.
class Window {
public:
    Window(const ImageView& image, Corner corner, Index box) noexcept
        : image_(image), top_(static_cast<Index>(corner.y)), left_(static_cast<Index>(corner.x)), box_(box),
          first_(std::max<Index>(left_, 0)), last_(std::min(left_ + box, image.width)),
          inside_(place(top_, box, image.height) == Placement::inside &&
                  place(left_, box, image.width) == Placement::inside) {}

    /// Sum of all pixels, repeated ones as often as they are repeated.
    [[nodiscard]] double sum(const Kernels& kernels) const noexcept {
        if (inside_) {
            return kernels.sum(part(top_, box_, first_, last_));
        }
        double total = 0;
        for (Index y = 0; y < box_; ++y) {
            const Index row = nearest_inside(top_ + y, image_.height);
            total += kernels.sum(part(row, 1, first_, last_));
            if (first_ > left_) {
                total += static_cast<double>(first_ - left_) * kernels.sum(part(row, 1, first_, first_ + 1));
            }
            if (last_ < left_ + box_) {
                total += static_cast<double>(left_ + box_ - last_) * kernels.sum(part(row, 1, last_ - 1, last_));
            }
        }
        return total;
    }

    /// All pixels as they are, and their sum.
    double take(const Kernels& kernels, float* out) const noexcept {
        if (inside_) {
            return kernels.take(part(top_, box_, first_, last_), out, box_);
        }
        read(kernels, 0, box_, 0.0, out);
        return sum(kernels);
    }

    /// Rows `begin` ... `begin + count - 1` of the window, minus `level`, one after the other.
    void read(const Kernels& kernels, Index begin, Index count, double level, float* out) const noexcept {
        if (inside_) {
            kernels.convert(part(top_ + begin, count, first_, last_), level, out, box_);
            return;
        }
        for (Index y = 0; y < count; ++y) {
            float* row = out + y * box_;
            kernels.convert(part(nearest_inside(top_ + begin + y, image_.height), 1, first_, last_), level,
                            row + (first_ - left_), box_);
            std::fill(row, row + (first_ - left_), row[first_ - left_]);
            std::fill(row + (last_ - left_), row + box_, row[last_ - left_ - 1]);
        }
    }

    /// Rows `begin` and `begin + 1` likewise, as one complex row; `rows` is room for both.
    void read_pair(const Kernels& kernels, Index begin, double level, float* rows, Complex* both) const noexcept {
        if (inside_) {
            kernels.convert_pair(part(top_ + begin, 2, first_, last_), level, parts(both));
            return;
        }
        read(kernels, begin, 2, level, rows);
        kernels.interleave(rows, rows + box_, box_, parts(both));
    }

    /// What to ask for, in so many calls, so that the window is in the cache when it is read.
    [[nodiscard]] Ahead ahead(Index calls) const noexcept {
        return inside_ ? Ahead(part(top_, box_, first_, last_), calls) : Ahead();
    }

private:
    /// Rows of the image from `top` on, columns [begin, end); all of them inside it.
    [[nodiscard]] ImageView part(Index top, Index height, Index begin, Index end) const noexcept {
        ImageView view = image_;
        view.data += top * image_.row_stride + begin * bytes_per_pixel(image_.type);
        view.height = height;
        view.width = end - begin;
        return view;
    }

    const ImageView& image_;
    Index top_;
    Index left_;
    Index box_;
    Index first_; // columns of the image that the window touches: [first_, last_)
    Index last_;
    bool inside_;
};

/// One output's share of a plan.
struct OutputPlan {
    StackView stack;
    const Background* background = nullptr;
    const Transform* backward = nullptr; ///< null: the window as it is
    Index columns_begin = 0;             ///< where its columns stand in Workspace::cropped
};

/// Everything about a call that is decided before its first particle. Shared by its threads, never changed.
struct Plan {
    const Kernels* kernels = nullptr;
    const Transform* forward = nullptr; ///< null: no output is cropped
    Index box = 0;
    Index columns = 0; ///< columns of the window's transform that any output keeps
    Index fetches = 0; ///< calls in which the next window is asked for, spread over what takes longest
    bool normalize = false;
    bool ramp = false;
    bool invert = false;
    double scale_const = 0;
    std::vector<OutputPlan> outputs;

    /// Plan the transforms of all outputs that are cropped, and the pace at which the next window is asked for.
    void prepare() {
        const Index passes = normalize ? 3 : 1; // over the rows of a window that is not cropped
        fetches = passes * box;
        for (OutputPlan& output : outputs) {
            if (output.stack.size < box) {
                forward = &transform(box, Direction::forward);
                output.backward = &transform(output.stack.size, Direction::backward);
                output.columns_begin = cropped_room_;
                const Index kept = output.stack.size / 2 + 1;
                columns = std::max(columns, kept);
                fetches = 2 * columns;
                cropped_room_ += kept * column_stride(output.stack.size);
            }
        }
    }

    void make_room(Workspace& workspace) const {
        const Index largest = outputs.front().stack.size;
        workspace.image.reserve(largest * largest);
        workspace.by_column.reserve(room_for_columns(largest));
        if (forward != nullptr) {
            workspace.rows.reserve(2 * box);
            workspace.before.reserve(box);
            workspace.after.reserve(box);
            workspace.columns.reserve(columns * column_stride(box));
            workspace.cropped.reserve(cropped_room_);
        }
    }

private:
    Index cropped_room_ = 0;
};

/// The window, its mean taken out, into the columns of every output that is cropped.
void crop_columns(const Plan& plan, const Window& window, double mean, Workspace& workspace, Ahead& ahead) noexcept {
    const Kernels& kernels = *plan.kernels;
    float* rows = workspace.rows.data();
    Complex* before = workspace.before.data();
    Complex* after = workspace.after.data();
    const Index stride = column_stride(plan.box);
    for (Index y = 0; y < plan.box; y += 2) {
        window.read_pair(kernels, y, mean, rows, before);
        (*plan.forward)(before, after);
        kernels.split(parts(after), plan.box, plan.columns, parts(workspace.columns.data() + y), stride);
    }
    const double points = static_cast<double>(plan.box) * static_cast<double>(plan.box);
    const auto scale = static_cast<float>(0.5 / points); // `split` doubles
    for (Index k = 0; k < plan.columns; ++k) {
        ahead.fetch();
        (*plan.forward)(workspace.columns.data() + k * stride, after);
        for (const OutputPlan& output : plan.outputs) {
            const Index size = output.stack.size;
            if (output.backward != nullptr && k <= size / 2) {
                kernels.crop_column(parts(after), plan.box, parts(before), size, scale);
                ahead.fetch();
                (*output.backward)(before, workspace.cropped.data() + output.columns_begin + k * column_stride(size));
            }
        }
    }
}

/// An output that is cropped, before it is finished: into `workspace.image`, without the window's mean.
void make_image(const Plan& plan, const OutputPlan& output, Workspace& workspace, Ahead& ahead) noexcept {
    float* image = workspace.image.data();
    const Index size = output.stack.size;
    for (Index y = 0; y < size; y += 2) {
        ahead.fetch();
        plan.kernels->join(parts(workspace.cropped.data() + output.columns_begin + y), column_stride(size), size,
                           parts(workspace.before.data()));
        (*output.backward)(workspace.before.data(), workspace.after.data());
        plan.kernels->separate(parts(workspace.after.data()), size, image + y * size, image + (y + 1) * size);
    }
}

/// Normalize or restore, invert, measure and store the image in `workspace.image` as particle `n`. One that is cropped
/// lacks the window's mean; one that isn't holds the pixels as they are.
Status finish_image(const Plan& plan, const OutputPlan& output, double window_mean, Index n, Workspace& workspace,
                    Ahead& ahead, double* statistics) noexcept {
    const Kernels& kernels = *plan.kernels;
    const bool cropped = output.backward != nullptr;
    float* image = workspace.image.data();
    const Beside beside{.by_column = workspace.by_column.data(), .ahead = ahead};
    Finish finish;
    double level = 0;
    double sd = 0;
    if (plan.normalize) {
        const Background& background = *output.background;
        const BackgroundSums sums = cropped ? kernels.background_sums(image, background.runs(), beside)
                                            : kernels.subtract_level(image, window_mean, background.runs(), beside);
        level = sums.value / background.count();
        finish.plane = plan.ramp ? background.fit(sums) : Plane{.level = level, .slope_y = 0, .slope_x = 0};
        const BackgroundSums left = kernels.residual_sums(image, background.runs(), finish.plane, beside);
        const double offset = left.value / background.count();
        const double variance = left.square / background.count() - offset * offset;
        sd = variance > 0 ? std::sqrt(variance) : 0.0;
        level += window_mean;
        finish.plane.level += offset;
        const double root_mean_square = std::sqrt(sums.square / background.count());
        if (!has_contrast(sd, root_mean_square) ||
            (cropped && !has_cropped_contrast(sd, kernels.root_mean_square(image, output.stack.size)))) {
            return Status::no_contrast;
        }
        finish.scale = 1 / (plan.scale_const > 0 ? plan.scale_const : sd);
    } else {
        finish.plane.level = cropped ? -window_mean : 0.0; // the mean is added back
        finish.shift = window_mean;
    }
    if (plan.invert) {
        finish.scale = -finish.scale;
        finish.shift = -finish.shift;
    }
    const Index size = output.stack.size;
    float* float32 = output.stack.float32 == nullptr ? nullptr : output.stack.float32 + n * size * size;
    Half* float16 = output.stack.float16 == nullptr ? nullptr : output.stack.float16 + n * size * size;
    const ImageStatistics result = kernels.finish(image, size, finish, float32, float16, beside);
    if (!result.finite) { // gray levels near the end of float32, or a divisor near 0
        return plan.normalize ? Status::no_contrast : Status::not_finite;
    }
    statistics[minimum] = result.minimum;
    statistics[maximum] = result.maximum;
    statistics[mean] = result.mean;
    statistics[standard_deviation] = result.standard_deviation;
    statistics[background_mean] = level;
    statistics[background_sd] = sd;
    statistics[clamped] = static_cast<double>(result.clamped);
    return Status::ok;
}

void clear(const StackView& stack, Index n) noexcept {
    const auto pixels = static_cast<std::size_t>(stack.size * stack.size);
    if (stack.float32 != nullptr) {
        std::memset(stack.float32 + n * stack.size * stack.size, 0, pixels * sizeof(float));
    } else {
        std::memset(static_cast<void*>(stack.float16 + n * stack.size * stack.size), 0, pixels * sizeof(Half));
    }
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
    for (std::size_t k = 0; options.normalize && k < outputs.size(); ++k) {
        backgrounds.emplace_back(outputs[k].size, options.radii[k]);
    }
    const int threads = threads_for(static_cast<Index>(corners.size()), options.threads);
    Plan plan;
    plan.kernels = &kernels();
    plan.box = options.box;
    plan.normalize = options.normalize;
    plan.ramp = options.ramp;
    plan.invert = options.invert;
    plan.scale_const = options.scale_const;
    for (std::size_t k = 0; k < outputs.size(); ++k) {
        plan.outputs.push_back({.stack = outputs[k], .background = options.normalize ? &backgrounds[k] : nullptr});
    }
    // Where no box may be cut, however large, nothing is planned.
    const Workspaces workspaces(threads);
    if (std::ranges::any_of(corners,
                            [&](Corner corner) { return may_be_cut(image, corner, options.box, options.pad); })) {
        plan.prepare();
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
        const Window window(image, corner, plan.box);
        const bool taken = plan.outputs.front().backward == nullptr; // the only output that can be the window itself
        const double sum = taken ? window.take(*plan.kernels, workspace.image.data()) : window.sum(*plan.kernels);
        const double window_mean = sum / (static_cast<double>(plan.box) * static_cast<double>(plan.box));
        if (!std::isfinite(window_mean)) {
            return Status::not_finite;
        }
        if (plan.forward != nullptr) {
            crop_columns(plan, window, window_mean, workspace, ahead);
        }
        Status result = Status::ok;
        for (std::size_t k = 0; k < plan.outputs.size() && result == Status::ok; ++k) {
            if (plan.outputs[k].backward != nullptr) {
                make_image(plan, plan.outputs[k], workspace, ahead);
            }
            double* row = statistics.data() + (static_cast<Index>(k) * count + n) * statistics_count;
            result = finish_image(plan, plan.outputs[k], window_mean, n, workspace, ahead, row);
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
    Plan plan;
    plan.kernels = &kernels();
    plan.box = box;
    plan.outputs.push_back({.stack = {.float32 = output, .float16 = nullptr, .size = size}});
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
        const double level = window.sum(*plan.kernels) / (static_cast<double>(box) * static_cast<double>(box));
        Ahead nothing;
        crop_columns(plan, window, level, workspace, nothing);
        make_image(plan, plan.outputs.front(), workspace, nothing);
        const Finish finish{.plane = {.level = -level, .slope_y = 0, .slope_x = 0}, .scale = 1, .shift = level};
        plan.kernels->finish(workspace.image.data(), size, finish, output + n * size * size, nullptr,
                             Beside{.by_column = workspace.by_column.data(), .ahead = nothing});
    });
}

} // namespace cryobox
