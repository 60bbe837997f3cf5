// Memory that a worker keeps: aligned for transforms, never initialized, never shrunk.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#include "cryobox/image.hpp"

namespace cryobox {

inline constexpr std::size_t buffer_alignment = 64; ///< bytes: a cache line, and the widest registers

template <class T>
class Buffer {
    static_assert(std::is_trivially_destructible_v<T>);

public:
    Buffer() = default;
    explicit Buffer(Index count) { reserve(count); }

    /// Make room for `count` elements; what was in the buffer is lost where it grows.
    /// @throws std::bad_alloc
    void reserve(Index count) {
        if (count <= capacity_) {
            return;
        }
        memory_.reset(); // first, so that the old and the new never exist together
        capacity_ = 0;
        memory_.reset(static_cast<T*>(
            ::operator new(static_cast<std::size_t>(count) * sizeof(T), std::align_val_t{buffer_alignment})));
        capacity_ = count;
    }

    [[nodiscard]] T* data() const noexcept { return memory_.get(); }
    [[nodiscard]] Index bytes() const noexcept { return capacity_ * static_cast<Index>(sizeof(T)); }

private:
    struct Free {
        void operator()(T* memory) const noexcept { ::operator delete(memory, std::align_val_t{buffer_alignment}); }
    };
    std::unique_ptr<T, Free> memory_;
    Index capacity_ = 0;
};

} // namespace cryobox
