// The two floors under every run: copying the same bytes, and FFTW's bare transforms of the same case.
//
//   floors copy --list FILE --out DIR --stacks BYTES[,BYTES] --workers W [--block BYTES] [--fsync]
//   floors fft  --box N --sizes M[,K] --particles P --workers W [--plan estimate|measure]
//
// One JSON line on stdout. Threads, buffers and plans are made, and every page touched, before the clock starts:
// a floor is what the machine cannot go below, so nothing that a run may pay once is in it.

#include <fcntl.h>
#include <fftw3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kBlock = 8U << 20U; // what the engine writes at a time

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

/// Page-aligned memory whose pages exist already.
class Buffer {
public:
    explicit Buffer(std::size_t bytes)
        : bytes_(std::max<std::size_t>(bytes, 1)),
          data_(static_cast<char*>(std::aligned_alloc(4096, (bytes_ + 4095) / 4096 * 4096))) {
        if (!data_)
            throw std::bad_alloc();
        std::memset(data_.get(), 1, bytes_);
    }
    [[nodiscard]] char* data() const { return data_.get(); }
    [[nodiscard]] std::size_t size() const { return bytes_; }

private:
    struct Free {
        void operator()(char* p) const { std::free(p); }
    };
    std::size_t bytes_;
    std::unique_ptr<char, Free> data_;
};

class File {
public:
    File(const std::string& path, int flags) : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
        if (fd_ < 0)
            fail(path_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() { ::close(fd_); }

    std::size_t read(char* into, std::size_t bytes) const {
        const ssize_t got = ::read(fd_, into, bytes);
        if (got < 0)
            fail(path_);
        return static_cast<std::size_t>(got);
    }
    void write(const char* from, std::size_t bytes) const {
        while (bytes > 0) {
            const ssize_t put = ::write(fd_, from, bytes);
            if (put < 0)
                fail(path_);
            from += put;
            bytes -= static_cast<std::size_t>(put);
        }
    }
    void sync() const {
        if (::fsync(fd_) != 0)
            fail(path_);
    }

private:
    std::string path_;
    int fd_;
};

class Arguments {
public:
    Arguments(int argc, char** argv) {
        for (int i = 2; i < argc; ++i) {
            std::string name = argv[i];
            if (name == "--fsync") {
                values_.insert_or_assign(name, std::string(1, '1'));
            } else if (i + 1 < argc) {
                values_[name] = argv[++i];
            } else {
                throw std::invalid_argument(name + " needs a value");
            }
        }
    }
    [[nodiscard]] std::string text(const std::string& name, const std::string& otherwise = "") const {
        const auto found = values_.find(name);
        if (found != values_.end())
            return found->second;
        if (otherwise.empty())
            throw std::invalid_argument(name + " is missing");
        return otherwise;
    }
    [[nodiscard]] std::size_t number(const std::string& name, const std::string& otherwise = "") const {
        return std::stoul(text(name, otherwise));
    }
    [[nodiscard]] std::vector<std::size_t> numbers(const std::string& name) const {
        std::vector<std::size_t> all;
        const std::string list = text(name);
        for (std::size_t at = 0; at < list.size();) {
            const std::size_t comma = std::min(list.find(',', at), list.size());
            all.push_back(std::stoul(list.substr(at, comma - at)));
            at = comma + 1;
        }
        return all;
    }
    [[nodiscard]] bool has(const std::string& name) const { return values_.count(name) != 0; }

private:
    std::map<std::string, std::string> values_;
};

/// Delete the file that holds this program's memory, if there is one: `let_go` of machine.py.
void let_go() {
    if (const char* warm = std::getenv("CRYOBOX_BENCH_WARM"); warm != nullptr)
        ::unlink(warm);
}

/// Run `work(worker)` on as many threads; `prepare(worker)` comes before the clock. Returns the seconds of the work.
template <class Prepare, class Work>
double timed(std::size_t workers, const Prepare& prepare, const Work& work) {
    std::barrier ready(static_cast<std::ptrdiff_t>(workers) + 1);
    std::vector<std::thread> threads;
    std::vector<std::exception_ptr> errors(workers);
    for (std::size_t w = 0; w < workers; ++w) {
        threads.emplace_back([&, w] {
            bool waited = false;
            try {
                auto state = prepare(w);
                waited = true;
                ready.arrive_and_wait();
                work(*state);
            } catch (...) {
                errors[w] = std::current_exception();
                if (!waited)
                    ready.arrive_and_drop();
            }
        });
    }
    let_go();
    ready.arrive_and_wait();
    const auto start = Clock::now();
    for (auto& thread : threads)
        thread.join();
    const double seconds = seconds_since(start);
    for (const auto& error : errors) {
        if (error)
            std::rethrow_exception(error);
    }
    return seconds;
}

int copy_floor(const Arguments& arguments) {
    const std::string out = arguments.text("--out");
    const std::vector<std::size_t> stacks = arguments.numbers("--stacks");
    const std::size_t workers = arguments.number("--workers");
    const std::size_t asked = arguments.number("--block", "0"); // 0: the whole micrograph, as an extractor needs it
    const bool sync = arguments.has("--fsync");
    std::vector<std::string> inputs;
    std::size_t largest = 0;
    std::ifstream list(arguments.text("--list"));
    for (std::string line; std::getline(list, line);) {
        struct stat about{};
        if (::stat(line.c_str(), &about) != 0)
            fail(line);
        largest = std::max(largest, static_cast<std::size_t>(about.st_size));
        inputs.push_back(line);
    }
    if (inputs.empty())
        throw std::invalid_argument("the list names no micrograph");

    struct State {
        Buffer input;
        Buffer output;
    };
    std::atomic<std::size_t> next{0};
    std::atomic<std::size_t> read{0};
    std::atomic<std::size_t> written{0};
    const double seconds = timed(
        workers,
        [&](std::size_t) {
            return std::make_unique<State>(State{Buffer(asked == 0 ? largest : asked), Buffer(kBlock)});
        },
        [&](State& state) {
            for (std::size_t i = next++; i < inputs.size(); i = next++) {
                {
                    const File input(inputs[i], O_RDONLY);
                    std::size_t at = 0;
                    std::size_t total = 0;
                    while (const std::size_t got = input.read(state.input.data() + at, state.input.size() - at)) {
                        total += got;
                        at = (at + got) % state.input.size();
                        if (asked == 0 && at == 0)
                            break; // the largest file exactly fills the buffer
                    }
                    read += total;
                }
                for (std::size_t s = 0; s < stacks.size(); ++s) {
                    const std::string path = out + "/" + std::to_string(i) + "_" + std::to_string(s) + ".mrcs";
                    const std::string unfinished = path + ".tmp";
                    {
                        const File output(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
                        for (std::size_t left = stacks[s]; left > 0;) {
                            const std::size_t bytes = std::min(left, kBlock);
                            output.write(state.output.data(), bytes);
                            left -= bytes;
                        }
                        if (sync)
                            output.sync();
                    }
                    if (std::rename(unfinished.c_str(), path.c_str()) != 0)
                        fail(path);
                    if (sync)
                        File(out, O_RDONLY | O_DIRECTORY).sync();
                    written += stacks[s];
                }
            }
        });
    std::printf("{\"seconds\": %.6f, \"bytes_read\": %zu, \"bytes_written\": %zu}\n", seconds, read.load(),
                written.load());
    return 0;
}

struct FreeFftw {
    void operator()(void* p) const { fftwf_free(p); }
    void operator()(fftwf_plan p) const { fftwf_destroy_plan(p); }
};
using Real = std::unique_ptr<float[], FreeFftw>;
using Complex = std::unique_ptr<fftwf_complex[], FreeFftw>;
using Plan = std::unique_ptr<std::remove_pointer_t<fftwf_plan>, FreeFftw>;

Plan checked(fftwf_plan plan) {
    if (plan == nullptr)
        throw std::runtime_error("FFTW has no plan for this size");
    return Plan(plan);
}

/// How the surviving columns lie in memory, and how many of them FFTW is given at once.
struct Layout {
    const char* name;
    bool interleaved;
    std::size_t rows_at_once;
};
constexpr Layout kLayouts[] = {
    {"columns interleaved, 8 rows at once", true, 8},
    {"columns interleaved, 1 row at once", true, 1},
    {"columns contiguous, 8 rows at once", false, 8},
    {"columns contiguous, 1 row at once", false, 1},
};

/// The bare transforms of one particle: N rows real to complex, M/2 + 1 columns, one inverse per stored size. What lies
/// between them (pruning, cropping, statistics) is left out: each transform works on memory that is already in cache.
class Transforms {
public:
    Transforms(int box, const std::vector<std::size_t>& sizes, Layout layout, unsigned flag)
        : box_(box), rows_(static_cast<int>(layout.rows_at_once)), columns_(static_cast<int>(sizes[0]) / 2 + 1) {
        const int half = box / 2 + 1;
        const auto n = static_cast<std::size_t>(box);
        window_.reset(fftwf_alloc_real(layout.rows_at_once * n));
        spectrum_.reset(fftwf_alloc_complex(layout.rows_at_once * static_cast<std::size_t>(half)));
        kept_.reset(fftwf_alloc_complex(n * static_cast<std::size_t>(columns_)));
        row_ = checked(fftwf_plan_many_dft_r2c(1, &box_, rows_, window_.get(), nullptr, 1, box_, spectrum_.get(),
                                               nullptr, 1, half, flag | FFTW_DESTROY_INPUT));
        const int stride = layout.interleaved ? columns_ : 1;
        const int distance = layout.interleaved ? 1 : box_;
        column_ = checked(fftwf_plan_many_dft(1, &box_, columns_, kept_.get(), nullptr, stride, distance, kept_.get(),
                                              nullptr, stride, distance, FFTW_FORWARD, flag));
        for (const std::size_t size : sizes) {
            const int m = static_cast<int>(size);
            small_.emplace_back(fftwf_alloc_complex(size * (size / 2 + 1)));
            image_.emplace_back(fftwf_alloc_real(size * size));
            inverse_.push_back(checked(
                fftwf_plan_dft_c2r_2d(m, m, small_.back().get(), image_.back().get(), flag | FFTW_DESTROY_INPUT)));
        }
        // Zeros, since transforms of transforms would overflow; FFTW's time does not depend on the values.
        std::fill_n(window_.get(), layout.rows_at_once * n, 0.0F);
        std::memset(kept_.get(), 0, n * static_cast<std::size_t>(columns_) * sizeof(fftwf_complex));
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            std::memset(small_[i].get(), 0, sizes[i] * (sizes[i] / 2 + 1) * sizeof(fftwf_complex));
        }
    }

    void rows() const {
        for (int row = 0; row < box_; row += rows_)
            fftwf_execute(row_.get());
    }
    void columns() const { fftwf_execute(column_.get()); }
    void inverses() const {
        for (const auto& inverse : inverse_)
            fftwf_execute(inverse.get());
    }
    void one_particle() const {
        rows();
        columns();
        inverses();
    }

private:
    int box_;
    int rows_;
    int columns_;
    Real window_;
    Complex spectrum_;
    Complex kept_;
    std::vector<Complex> small_;
    std::vector<Real> image_;
    Plan row_;
    Plan column_;
    std::vector<Plan> inverse_;
};

int fft_floor(const Arguments& arguments) {
    const auto box = static_cast<int>(arguments.number("--box"));
    const std::vector<std::size_t> sizes = arguments.numbers("--sizes");
    const std::size_t particles = arguments.number("--particles");
    const std::size_t workers = arguments.number("--workers");
    const std::string planner = arguments.text("--plan", "estimate");
    const unsigned flag = planner == "measure" ? FFTW_MEASURE : FFTW_ESTIMATE;

    // The fastest layout is the floor; which one it is depends on the machine, so it is tried.
    const Layout* best = nullptr;
    double fastest = 1e300;
    for (const Layout& layout : kLayouts) {
        if (box % static_cast<int>(layout.rows_at_once) != 0)
            continue;
        const Transforms transforms(box, sizes, layout, flag);
        transforms.one_particle();
        for (int attempt = 0; attempt < 5; ++attempt) {
            const auto start = Clock::now();
            for (int i = 0; i < 20; ++i)
                transforms.one_particle();
            const double seconds = seconds_since(start) / 20;
            if (seconds < fastest) {
                fastest = seconds;
                best = &layout;
            }
        }
    }
    const Transforms alone(box, sizes, *best, flag);
    const auto part = [&](auto&& transform) {
        double least = 1e300;
        for (int attempt = 0; attempt < 10; ++attempt) {
            const auto start = Clock::now();
            for (int i = 0; i < 20; ++i)
                transform();
            least = std::min(least, seconds_since(start) / 20 * 1e3);
        }
        return least;
    };
    const double rows = part([&] { alone.rows(); });
    const double columns = part([&] { alone.columns(); });
    const double inverses = part([&] { alone.inverses(); });
    std::vector<std::unique_ptr<Transforms>> states;
    for (std::size_t w = 0; w < workers; ++w) {
        states.push_back(std::make_unique<Transforms>(box, sizes, *best, flag));
    }
    std::atomic<std::size_t> next{0};
    constexpr std::size_t kChunk = 16;
    const double seconds = timed(
        workers,
        [&](std::size_t w) {
            for (int i = 0; i < 5; ++i)
                states[w]->one_particle();
            return std::move(states[w]);
        },
        [&](const Transforms& transforms) {
            for (std::size_t at = next.fetch_add(kChunk); at < particles; at = next.fetch_add(kChunk)) {
                for (std::size_t i = at; i < std::min(particles, at + kChunk); ++i)
                    transforms.one_particle();
            }
        });
    std::printf("{\"seconds\": %.6f, \"ms_per_particle_and_worker\": %.5f, \"rows_ms\": %.5f, \"columns_ms\": %.5f, "
                "\"inverses_ms\": %.5f, \"layout\": \"%s\", \"planner\": \"%s\", \"fftw\": \"%s\"}\n",
                seconds, seconds * static_cast<double>(workers) / static_cast<double>(particles) * 1e3, rows, columns,
                inverses, best->name, planner.c_str(), fftwf_version);
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    try {
        const std::string what = argc > 1 ? argv[1] : "";
        const Arguments arguments(argc, argv);
        if (what == "copy")
            return copy_floor(arguments);
        if (what == "fft")
            return fft_floor(arguments);
        throw std::invalid_argument("first argument must be copy or fft; got '" + what + "'");
    } catch (const std::exception& error) {
        std::cerr << "floors: " << error.what() << '\n';
        return 2;
    }
}
