// Runs a fuzz target without libFuzzer: `fuzz_extract INPUTS [SEED]`, or files with inputs. The same in every run.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::vector<std::uint8_t> input(std::mt19937_64& dice) {
    std::vector<std::uint8_t> data(dice() % 400);
    for (std::uint8_t& byte : data) {
        byte = static_cast<std::uint8_t>(dice());
    }
    return data;
}

} // namespace

int main(int argc, char** argv) {
    if (argc > 1 && std::strtol(argv[1], nullptr, 10) == 0) {
        for (int i = 1; i < argc; ++i) {
            std::ifstream file(argv[i], std::ios::binary);
            const std::vector<char> data{std::istreambuf_iterator<char>(file), {}};
            LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
        }
        return 0;
    }
    const long inputs = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 20'000;
    std::mt19937_64 dice(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
    for (long i = 0; i < inputs; ++i) {
        const std::vector<std::uint8_t> data = input(dice);
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    std::printf("%ld inputs, no finding\n", inputs);
    return 0;
}
