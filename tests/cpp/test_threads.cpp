// Many callers at once, each with one thread: plans, pool and workspaces under ThreadSanitizer.
#include <thread>

#include "scene.hpp"

using namespace cryobox;

namespace {

void many_callers_at_once_get_the_bits_of_one() {
    const testing::Scene scene(120, 120);
    const std::vector<Corner> corners = {{.y = 0, .x = 0}, {.y = 20, .x = 11}, {.y = 70, .x = 70}, {.y = 33, .x = 40}};
    struct Case {
        Index box;
        Index size;
    };
    // Several boxes, so that callers meet while planning.
    const std::vector<Case> cases = {{.box = 50, .size = 24}, {.box = 48, .size = 20}, {.box = 40, .size = 40},
                                     {.box = 36, .size = 30}, {.box = 50, .size = 22}, {.box = 50, .size = 24}};
    const auto work = [&](const Case& one) {
        ExtractOptions options;
        options.box = one.box;
        options.radii = {0.375 * static_cast<double>(one.size)};
        return testing::make(scene, corners, {one.size}, options);
    };
    std::vector<testing::Made> together(cases.size() * 3);
    {
        std::vector<std::jthread> callers;
        callers.reserve(together.size());
        for (std::size_t i = 0; i < together.size(); ++i) {
            callers.emplace_back([&, i] { together[i] = work(cases[i % cases.size()]); });
        }
    }
    for (std::size_t i = 0; i < together.size(); ++i) {
        const auto alone = work(cases[i % cases.size()]);
        CHECK(together[i].wide == alone.wide);
        CHECK(together[i].statistics == alone.statistics);
        CHECK(together[i].status == alone.status);
    }
}

} // namespace

int main() { return testing::run(many_callers_at_once_get_the_bits_of_one); }
