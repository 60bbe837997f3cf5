// The device's pipeline and passes, run by the stand-in, beside the CPU core; memory that has no byte to spare.
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>

#include "cryobox/cuda.hpp"
#include "scene.hpp"

using namespace cryobox;
using cryobox::testing::Made;
using cryobox::testing::Scene;

extern "C" void standin_set(int devices, std::size_t memory, int order);
extern "C" void standin_limit_pinned(std::size_t bytes);
extern "C" void standin_fail_after(int synchronizations, int device);
extern "C" std::size_t standin_used();
extern "C" std::size_t standin_most_used();
extern "C" int standin_synchronizations();
extern "C" int standin_allocations();

namespace {

constexpr std::size_t plenty = std::size_t{1} << 40U;

ExtractOptions options(Index box, std::vector<double> radii) {
    ExtractOptions made;
    made.box = box;
    made.radii = std::move(radii);
    return made;
}

Made on_device(const Scene& scene, std::span<const Corner> corners, const std::vector<Index>& sizes,
               const ExtractOptions& chosen, bool float16 = false, const cuda::Use& use = {}) {
    return testing::make_with(
        [&](const ImageView& image, std::span<const Corner> places, std::span<const StackView> stacks,
            std::span<Status> status,
            std::span<double> statistics) { cuda::extract(image, places, stacks, chosen, use, status, statistics); },
        scene, corners, sizes, float16);
}

bool close(const Made& a, const Made& b) {
    bool good = a.status == b.status;
    for (std::size_t k = 0; k < a.wide.size(); ++k) {
        for (std::size_t i = 0; i < a.wide[k].size(); ++i) {
            const float size = std::abs(b.wide[k][i]);
            good = good && std::abs(a.wide[k][i] - b.wide[k][i]) <= 1e-5F * (size > 5 ? size : 5);
        }
    }
    for (std::size_t i = 0; i < a.statistics.size(); ++i) {
        good = good && std::abs(a.statistics[i] - b.statistics[i]) <= 1e-5 * std::max(5.0, std::abs(b.statistics[i]));
    }
    return good;
}

bool same(const Made& a, const Made& b) {
    bool good = a.status == b.status && a.wide == b.wide && a.statistics == b.statistics;
    for (std::size_t k = 0; k < a.narrow.size(); ++k) {
        good = good && (a.narrow[k].empty() ||
                        std::memcmp(a.narrow[k].data(), b.narrow[k].data(), a.narrow[k].size() * sizeof(Half)) == 0);
    }
    return good;
}

std::vector<Corner> corners_everywhere(Index height, Index width, Index box) {
    std::vector<Corner> corners;
    for (Index y = -box - 1; y <= height + 1; y += 7) {
        for (Index x = -box - 1; x <= width + 1; x += 5) {
            corners.push_back({.y = y, .x = x});
        }
    }
    corners.push_back({.y = std::numeric_limits<std::int64_t>::min(), .x = 0});
    corners.push_back({.y = 0, .x = std::numeric_limits<std::int64_t>::max()});
    return corners;
}

void the_device_makes_what_the_processor_makes() {
    const Scene scene(70, 83);
    for (const Index box : {2, 4, 34, 48}) {
        const auto corners = corners_everywhere(70, 83, box);
        for (const bool pad : {false, true}) {
            for (const bool normalize : {false, true}) {
                for (const std::vector<Index>& sizes : {std::vector<Index>{box}, {2}, {box, 2}, {box - 2, 2}}) {
                    if (sizes[0] < 2 || (sizes.size() > 1 && sizes[1] >= sizes[0])) {
                        continue;
                    }
                    if (normalize && sizes.back() < 4) {
                        continue;
                    }
                    auto chosen = options(box, std::vector<double>(sizes.size(), 1));
                    chosen.pad = pad;
                    chosen.steps.normalize = normalize;
                    chosen.steps.invert = pad;
                    const auto expected = testing::make(scene, corners, sizes, chosen);
                    CHECK(close(on_device(scene, corners, sizes, chosen), expected));
                }
            }
        }
    }
}

void the_order_of_threads_changes_no_bit() {
    const Scene scene(90, 120);
    const auto corners = corners_everywhere(90, 120, 40);
    auto chosen = options(40, {15, 8});
    chosen.pad = true;
    standin_set(1, plenty, 0);
    const auto upward = on_device(scene, corners, {40, 22}, chosen);
    for (const int order : {1, 2}) {
        standin_set(1, plenty, order);
        CHECK(same(on_device(scene, corners, {40, 22}, chosen), upward));
    }
    standin_set(1, plenty, 0);
}

void little_memory_costs_batches_and_no_bit() {
    const Scene scene(150, 150);
    const auto corners = corners_everywhere(150, 150, 64);
    auto chosen = options(64, {24, 12});
    chosen.pad = true;
    for (const bool float16 : {false, true}) {
        standin_set(1, plenty, 0);
        const auto expected = on_device(scene, corners, {64, 32}, chosen, float16);
        for (const std::size_t memory : {5'000'000U, 1'000'000U, 300'000U}) {
            cuda::release_idle(0);
            standin_set(1, memory, 0);
            CHECK(same(on_device(scene, corners, {64, 32}, chosen, float16), expected));
            CHECK(standin_most_used() <= memory);
        }
        for (const std::size_t memory : {5'000'000U, 700'000U, 1U}) { // a limit of the caller's
            cuda::release_idle(0);
            standin_set(1, plenty, 0);
            CHECK(same(on_device(scene, corners, {64, 32}, chosen, float16, {.memory = memory}), expected));
            CHECK(memory == 1 || standin_most_used() <= memory);
        }
    }
}

void too_little_memory_is_an_error_that_says_so() {
    const Scene scene(150, 150);
    const auto corners = corners_everywhere(150, 150, 64);
    cuda::release_idle(0);
    standin_set(1, 95'000, 0);
    CHECK(testing::throws<std::runtime_error>([&] { on_device(scene, corners, {64}, options(64, {24})); },
                                              "out of memory: one window of 64 pixels needs about"));
    cuda::release_idle(0);
    standin_set(1, 20'000, 0);
    CHECK(testing::throws<std::runtime_error>([&] { on_device(scene, corners, {64}, options(64, {24})); },
                                              "out of memory: the micrograph needs"));
    standin_set(1, plenty, 0);
    CHECK(on_device(scene, corners, {64}, options(64, {24})).status.size() == corners.size());
    cuda::release_idle(0);
    CHECK(standin_used() == 0);
}

void a_second_call_allocates_nothing_and_waits_once() {
    const Scene scene(150, 150);
    const auto corners = corners_everywhere(150, 150, 64);
    on_device(scene, corners, {64, 32}, options(64, {24, 12}));
    standin_set(1, plenty, 0);
    on_device(scene, corners, {64, 32}, options(64, {24, 12}));
    CHECK(standin_allocations() == 0);
    CHECK(standin_synchronizations() == 1);
}

void a_few_more_particles_or_rows_allocate_nothing() {
    const Scene scene(300, 200);
    std::vector<Corner> few;
    few.reserve(140);
    for (Index i = 0; i < 100; ++i) {
        few.push_back({.y = i % 7, .x = i});
    }
    cuda::release_idle(0);
    on_device(scene, few, {64, 32}, options(64, {24, 12}));
    standin_set(1, plenty, 0);
    auto more = few;
    for (Index i = 0; i < 40; ++i) {
        more.push_back({.y = 60 + i % 9, .x = i});
    }
    on_device(scene, more, {64, 32}, options(64, {24, 12}));
    CHECK(standin_allocations() == 0);
}

void memory_that_was_short_once_harms_no_later_call() {
    const Scene small(128, 128);
    const Scene large(6000, 128);
    const auto corners = [](Index count, Index rows) {
        std::vector<Corner> found;
        found.reserve(static_cast<std::size_t>(count));
        for (Index i = 0; i < count; ++i) {
            found.push_back({.y = i * 997 % (rows - 32), .x = i % 90});
        }
        return found;
    };
    const auto chosen = options(32, {12});
    cuda::release_idle(0);
    standin_set(1, 3'500'000, 0); // not for twice what is needed of the large one
    on_device(small, corners(100, 128), {32}, chosen);
    on_device(large, corners(140, 2800), {32}, chosen);
    for (const Index count : {160, 200, 205, 210}) {
        const auto places = corners(count, 128);
        CHECK(close(on_device(small, places, {32}, chosen), testing::make(small, places, {32}, chosen)));
    }
    cuda::release_idle(0);
    standin_set(1, plenty, 0);
}

void a_few_rows_of_a_large_micrograph_take_little_memory() {
    const Scene scene(4000, 128);
    const std::vector<Corner> one = {{.y = 1000, .x = 3}};
    cuda::release_idle(0);
    standin_set(1, plenty, 0);
    standin_limit_pinned(100'000);
    on_device(scene, one, {32}, options(32, {12}));
    CHECK(standin_most_used() < 1'000'000);
    standin_limit_pinned(20'000); // 32 rows of 512 bytes, and not twice as many
    cuda::release_idle(0);
    on_device(scene, one, {32}, options(32, {12}));
    standin_set(1, plenty, 0);
    cuda::release_idle(0);
}

void a_failed_device_is_an_error_and_leaks_nothing() {
    const Scene scene(100, 100);
    const auto corners = corners_everywhere(100, 100, 32);
    cuda::release_idle(0);
    standin_set(1, plenty, 0);
    standin_fail_after(0, -1);
    CHECK(testing::throws<std::runtime_error>([&] { on_device(scene, corners, {16}, options(32, {6})); },
                                              "an illegal memory access"));
    CHECK(standin_used() == 0);
    standin_set(1, plenty, 0);
    on_device(scene, corners, {16}, options(32, {6}));
}

void images_and_stacks_on_the_device_need_no_copies() {
    const Scene scene(100, 110);
    const auto corners = corners_everywhere(100, 110, 32);
    const auto chosen = options(32, {6});
    const auto expected = on_device(scene, corners, {16}, chosen);
    const auto pixels = static_cast<std::size_t>(scene.height * scene.width) * sizeof(float);
    const auto image = cuda::Memory::on_device(0, pixels);
    constexpr std::size_t image_pixels = 256;
    constexpr std::size_t image_bytes = image_pixels * sizeof(float);
    cuda::upload(0, scene.view(), 0, scene.height, image->data());
    const std::size_t bytes = corners.size() * image_bytes;
    const auto stack = cuda::Memory::on_device(0, bytes);
    ImageView view = scene.view();
    view.data = image->data();
    const StackView output{.float32 = reinterpret_cast<float*>(stack->data()), .float16 = nullptr, .size = 16};
    std::vector<Status> status(corners.size());
    std::vector<double> statistics(corners.size() * statistics_count);
    cuda::extract(view, corners, {&output, 1}, chosen, {.image = cuda::Place::device, .outputs = cuda::Place::device},
                  status, statistics);
    std::vector<float> found(corners.size() * image_pixels);
    cuda::download(0, reinterpret_cast<std::byte*>(found.data()), stack->data(), bytes);
    CHECK(found == expected.wide[0]);
    CHECK(status == expected.status);
    std::vector<std::uint8_t> wanted(corners.size(), 0);
    wanted[1] = wanted[2] = wanted.back() = 1;
    const auto few = cuda::Memory::on_device(0, 3 * image_bytes);
    cuda::compact(0, few->data(), stack->data(), image_bytes, wanted);
    std::vector<float> chosen_ones(3 * image_pixels);
    cuda::download(0, reinterpret_cast<std::byte*>(chosen_ones.data()), few->data(), 3 * image_bytes);
    CHECK(std::equal(chosen_ones.begin(), chosen_ones.begin() + 512, found.begin() + 256));
    CHECK(std::equal(chosen_ones.begin() + 512, chosen_ones.end(), found.end() - 256));
}

void callers_in_many_threads_get_the_bits_of_one() {
    const Scene scene(120, 120);
    const auto corners = corners_everywhere(120, 120, 40);
    const auto chosen = options(40, {7});
    const auto expected = on_device(scene, corners, {20}, chosen);
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    threads.reserve(wrong.size());
    for (int& count : wrong) {
        threads.emplace_back([&] {
            for (int i = 0; i < 3; ++i) {
                count += same(on_device(scene, corners, {20}, chosen), expected) ? 0 : 1;
            }
        });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    CHECK(wrong == std::vector<int>(4, 0));
}

void many_callers_take_turns_and_no_more_memory() {
    const Scene scene(120, 120);
    const auto corners = corners_everywhere(120, 120, 40);
    const auto chosen = options(40, {7});
    cuda::release_idle(0);
    const auto expected = on_device(scene, corners, {20}, chosen);
    const std::size_t one = standin_used();
    standin_set(1, plenty, 0);
    std::vector<int> wrong(std::size_t{4} * cuda::most_callers, 0);
    std::vector<std::thread> threads;
    threads.reserve(wrong.size());
    for (int& count : wrong) {
        threads.emplace_back([&] { count = same(on_device(scene, corners, {20}, chosen), expected) ? 0 : 1; });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    CHECK(wrong == std::vector<int>(wrong.size(), 0));
    CHECK(standin_most_used() <= cuda::most_callers * one);
    standin_fail_after(0, -1); // those whose calls fail leave their places to others
    for (int i = 0; i <= cuda::most_callers; ++i) {
        CHECK(testing::throws<std::runtime_error>([&] { on_device(scene, corners, {20}, chosen); }, "illegal"));
    }
    standin_set(1, plenty, 0);
    CHECK(same(on_device(scene, corners, {20}, chosen), expected));
}

void wrong_arguments_are_refused_as_on_the_processor() {
    const Scene scene(40, 40);
    const std::vector<Corner> corners = {{.y = 0, .x = 0}};
    const auto refused = [&](const std::vector<Index>& sizes, const ExtractOptions& chosen, const char* why) {
        return testing::throws<std::invalid_argument>([&] { on_device(scene, corners, sizes, chosen); }, why);
    };
    CHECK(refused({16}, options(31, {6}), "box must be"));
    CHECK(refused({34}, options(32, {6}), "every output"));
    CHECK(refused({16}, options(32, {8}), "radius"));
    auto chosen = options(32, {6});
    chosen.threads = 0;
    CHECK(refused({16}, chosen, "threads"));
    CHECK(testing::throws<std::runtime_error>(
        [&] { on_device(scene, corners, {16}, options(32, {6}), false, {.device = 3}); },
        "there is no GPU 3; this host has 1"));
}

} // namespace

int main() {
    standin_set(1, plenty, 0);
    return testing::run(the_device_makes_what_the_processor_makes, the_order_of_threads_changes_no_bit,
                        little_memory_costs_batches_and_no_bit, too_little_memory_is_an_error_that_says_so,
                        a_second_call_allocates_nothing_and_waits_once, a_few_more_particles_or_rows_allocate_nothing,
                        memory_that_was_short_once_harms_no_later_call,
                        a_few_rows_of_a_large_micrograph_take_little_memory,
                        a_failed_device_is_an_error_and_leaks_nothing, images_and_stacks_on_the_device_need_no_copies,
                        callers_in_many_threads_get_the_bits_of_one, many_callers_take_turns_and_no_more_memory,
                        wrong_arguments_are_refused_as_on_the_processor);
}
