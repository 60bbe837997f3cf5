// What a worker writes on, and where it waits between two calls.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cryobox/buffer.hpp"
#include "cryobox/fft.hpp"
#include "cryobox/image.hpp"
#include "cryobox/normalize.hpp"

namespace cryobox {

/// Factors of the coefficients of a window, and the window whose CTF they are.
struct Factors {
    Buffer<float> values;
    Index window = -1; // none yet
};

/// What one worker writes on: made once, grown to the largest plan it met, reused by later calls.
struct Workspace {
    Buffer<float> rows;       // two rows of the window
    Buffer<Complex> before;   // what a transform reads
    Buffer<Complex> after;    // what it writes
    Buffer<Complex> columns;  // the kept columns of the window's transform
    Buffer<Complex> cropped;  // the columns of every output, transformed back
    Buffer<float> turns;      // of the rows of a window that is shifted, as complex numbers
    Factors factors;          // of the kept columns, where a CTF is applied on the way
    Factors apart;            // of all columns, where it is applied apart
    Buffer<float> treated;    // a window after that
    Buffer<float> image;      // an output before it is finished
    Buffer<double> by_column; // what a pass over it tabulates
    Background tube;          // of the window at hand
    Background middle;        // all but the middle of that tube
    Background alone;         // the same without its neighbors
    std::vector<Position> near;

    [[nodiscard]] Index bytes() const noexcept {
        return rows.bytes() + before.bytes() + after.bytes() + columns.bytes() + cropped.bytes() + image.bytes() +
               by_column.bytes() + turns.bytes() + factors.values.bytes() + apart.values.bytes() + treated.bytes() +
               tube.bytes() + middle.bytes() + alone.bytes() + static_cast<Index>(near.capacity() * sizeof(Position));
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

} // namespace cryobox
